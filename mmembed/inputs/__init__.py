"""From what users have to what the encoder reads: media, prompt, processor, collator."""
