"""Manifests, audio, crops and augmentation."""
