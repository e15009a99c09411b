"""From audio on disk, or from nothing at all, to manifests."""
