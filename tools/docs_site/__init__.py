"""The site that is made of docs/: what mkdocs does not know of a repository."""
