"""What a reviewer would run: experiments that use the public API only."""
