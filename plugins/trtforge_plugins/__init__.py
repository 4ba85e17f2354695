"""The steps that ship with trtforge, by the public interface only."""
