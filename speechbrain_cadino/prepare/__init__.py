"""From audio on disk to manifests, and what is kept of them."""
