"""Published products of embeddings, read as a provider reads imagery: their files, their tiles, their cells."""
