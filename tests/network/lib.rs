//! Nothing: a package wants a library or a program, and this one is only tests.
