"""The product for many rows on Hopper, in the parts that it is made of; Gluon, all of it."""
