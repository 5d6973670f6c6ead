//! Multiple-choice benchmarks over local folders: Video-MME, LongVideoBench, MLVU.
