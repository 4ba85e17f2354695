"""The same recipe under two TensorRT environments: is the upgrade safe?"""
