"""Texts continued token by token by a language model that keeps what it has read."""
