//! Evaluation: what a model answers about published collections of questions, and what the theory says it should see.
//! In: an engine and a local folder; or nothing but a position layout. Out: scores, experiments, plots.
//! Start reading at [`theory`] for the mathematics of the layouts, and at [`plot`] for how results are drawn.
//! On purpose absent here: flags, printing, downloads.
#![forbid(unsafe_code)]

pub mod choice;
pub mod plot;
mod random;
pub mod theory;
