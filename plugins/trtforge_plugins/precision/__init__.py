"""Steps that decide in which type each part of the model computes: data, ranges, Q/DQ, casts."""
