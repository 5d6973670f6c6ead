//! Evaluation: needles in drawn video, found by cache reuse and without it; videos drawn into files and read back.

mod niah;
