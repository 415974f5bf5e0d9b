"""The asyncio-native SDK for signing users in with OpenRouter."""

__version__ = "0.1.0"
