"""Front doors: request bodies that users of other embedding services know -> one internal call."""
