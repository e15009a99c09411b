"""Network modules: encoders, heads and the student-teacher pair."""
