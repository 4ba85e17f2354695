"""The custom ops that ship with trtforge."""
