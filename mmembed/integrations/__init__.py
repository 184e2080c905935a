"""The encoder as a component of LangChain, LlamaIndex and Haystack; one module for each."""
