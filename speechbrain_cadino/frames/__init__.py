"""What encoders say of each frame of speech: phones, ABX, units."""
