"""CLIP's image transform for generation, apart from samples."""
