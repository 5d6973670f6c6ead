//! Evaluation: which frames a model finds in a long video, what it answers about published collections of questions, and
//! what the theory says it should see. In: an engine and a local folder, or drawn videos; or nothing but a position layout.
//! Out: scores, experiments, plots. Start reading at [`niah`] and [`choice`] for models, at [`theory`] for the mathematics
//! of the layouts, and at [`plot`] for how results are shown.
//! On purpose absent here: flags, printing, downloads.
#![forbid(unsafe_code)]

pub mod choice;
mod drawn;
pub mod journal;
pub mod left_out;
pub mod looks;
pub mod niah;
pub mod plot;
pub mod streams;
pub mod theory;
