//! Counters and gauges in Prometheus' text form. Labels come from fixed sets: no name, prompt or model of a request is one.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::stream::Tally;

/// Upper ends of the buckets of a histogram, in seconds.
const BUCKETS: [f64; 12] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3600.0];

/// Everything that is counted.
#[derive(Default)]
pub(crate) struct Metrics {
    /// By route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    request_seconds: Mutex<BTreeMap<&'static str, Histogram>>,
    pub first_token: Mutex<Histogram>,
    pub token: Mutex<Histogram>,
    counters: [AtomicU64; Counter::ALL.len()],
    /// Tokens of prompts a second, in the last prompt that was long enough to tell.
    prefill_rate: AtomicU64,
    decode_rate: AtomicU64,
}

/// What only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counter {
    QueueRejected,
    Cancelled,
    TakesKept,
    Resumed,
    PromptTokens,
    CachedTokens,
    GeneratedTokens,
    AnswerSteps,
    FramesEncoded,
    FramesReused,
    UploadedBytes,
    JobPanics,
}

impl Counter {
    const ALL: [(Counter, &'static str, &'static str); 12] = [
        (Counter::QueueRejected, "queue_rejected_total", "Requests that found the queue full."),
        (Counter::Cancelled, "cancelled_total", "Requests whose client left before the end."),
        (
            Counter::TakesKept,
            "takes_kept_total",
            "Videos that became takes when the conversation that had read them was let go.",
        ),
        (Counter::Resumed, "resumed_total", "Requests that went on with what was begun for a client that left."),
        (Counter::PromptTokens, "prompt_tokens_total", "Tokens of prompts, those from the cache included."),
        (Counter::CachedTokens, "cached_tokens_total", "Tokens of prompts that were in the cache already."),
        (Counter::GeneratedTokens, "generated_tokens_total", "Tokens of answers."),
        (Counter::AnswerSteps, "answer_steps_total", "Steps that took the running answers a token further."),
        (Counter::FramesEncoded, "frames_encoded_total", "Frames that went through the vision tower."),
        (
            Counter::FramesReused,
            "frames_reused_total",
            "Frames that equal earlier ones of their video, whose tokens they have.",
        ),
        (Counter::UploadedBytes, "uploads_bytes_total", "Bytes of uploaded files."),
        (Counter::JobPanics, "job_panics_total", "Requests that ended in a fault of the program."),
    ];
}

/// How often something took how long.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    counts: [u64; BUCKETS.len()],
    n: u64,
    sum: f64,
}

impl Histogram {
    /// Counts a time.
    pub(crate) fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        for (count, _) in self.counts.iter_mut().zip(BUCKETS).filter(|(_, end)| seconds <= *end) {
            *count += 1;
        }
        self.n += 1;
        self.sum += seconds;
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        for (count, end) in self.counts.iter().zip(BUCKETS) {
            let _ = writeln!(out, "longtake_{name}_bucket{{{labels}{comma}le=\"{end}\"}} {count}");
        }
        let (n, sum) = (self.n, self.sum);
        let _ = writeln!(out, "longtake_{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {n}");
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "longtake_{name}_sum{labels} {sum}\nlongtake_{name}_count{labels} {n}");
    }
}

/// What goes up and down, as it is now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauges {
    pub n_running: usize,
    pub n_waiting: usize,
    pub n_lingering: usize,
    pub n_sessions: usize,
    pub cache_used: u64,
    pub cache_limit: u64,
    /// What is held of memory, and by whom.
    pub memory: Vec<(&'static str, u64)>,
    pub memory_limit: Option<u64>,
    pub files_bytes: u64,
    pub takes_bytes: u64,
    pub takes: Vec<(&'static str, usize)>,
    pub kernels: String,
}

impl Gauges {
    /// Adds takes, so many in each state.
    pub(crate) fn add_takes(&mut self, takes: Vec<(&'static str, usize)>) {
        for (status, n) in takes {
            match self.takes.iter_mut().find(|(known, _)| *known == status) {
                Some((_, sum)) => *sum += n,
                None => self.takes.push((status, n)),
            }
        }
    }
}

impl Metrics {
    /// Counts.
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        self.counters[counter as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// Counts the frames that one piece of work read.
    pub(crate) fn frames(&self, tally: &Tally) {
        self.add(Counter::FramesEncoded, 2 * tally.encoded_pairs as u64);
        self.add(Counter::FramesReused, 2 * tally.reused_pairs as u64);
    }

    /// What was counted.
    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }

    /// Notes a request to a route of the fixed list.
    pub(crate) fn request(&self, route: &'static str, status: u16, time: Duration) {
        *lock(&self.requests).entry((route, status)).or_default() += 1;
        lock(&self.request_seconds).entry(route).or_default().add(time);
    }

    /// Notes how fast a prompt of so many new tokens was read, and an answer of so many tokens made.
    pub(crate) fn rates(&self, (n_read, read): (usize, Duration), (n_made, made): (usize, Duration)) {
        for (n, time, least, rate) in [(n_read, read, 64, &self.prefill_rate), (n_made, made, 4, &self.decode_rate)] {
            if n >= least {
                let now = n as f64 / time.as_secs_f64().max(1e-9);
                let before = f64::from_bits(rate.load(Ordering::Relaxed));
                let mean = if before > 0.0 { 0.7 * before + 0.3 * now } else { now };
                rate.store(mean.to_bits(), Ordering::Relaxed);
            }
        }
    }

    /// Seconds that a prompt of so many new tokens and an answer of so many will take, by what was seen so far.
    pub(crate) fn seconds(&self, n_read: usize, n_made: usize) -> f64 {
        let of = |n: usize, rate: &AtomicU64, guess: f64| {
            let rate = f64::from_bits(rate.load(Ordering::Relaxed));
            n as f64 / if rate > 0.0 { rate } else { guess }
        };
        of(n_read, &self.prefill_rate, 200.0) + of(n_made, &self.decode_rate, 20.0)
    }

    /// All of it.
    pub(crate) fn text(&self, gauges: &Gauges) -> String {
        let mut out = String::new();
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(out, "# HELP longtake_{name} {help}\n# TYPE longtake_{name} {kind}");
        };
        head(&mut out, "requests_total", "counter", "Requests by route and status.");
        for ((route, status), n) in lock(&self.requests).iter() {
            let _ = writeln!(out, "longtake_requests_total{{route=\"{route}\",status=\"{status}\"}} {n}");
        }
        head(&mut out, "request_seconds", "histogram", "Time until the head of a reply.");
        for (route, times) in lock(&self.request_seconds).iter() {
            times.write(&mut out, "request_seconds", &format!("route=\"{route}\""));
        }
        head(&mut out, "time_to_first_token_seconds", "histogram", "Time from a request to its first token.");
        lock(&self.first_token).write(&mut out, "time_to_first_token_seconds", "");
        head(&mut out, "time_per_token_seconds", "histogram", "Time per token of an answer.");
        lock(&self.token).write(&mut out, "time_per_token_seconds", "");
        for (counter, name, help) in Counter::ALL {
            head(&mut out, name, "counter", help);
            let _ = writeln!(out, "longtake_{name} {}", self.count(counter));
        }
        let rate = f64::from_bits(self.prefill_rate.load(Ordering::Relaxed));
        let rows = [
            ("requests_running", "Requests that are worked on.", gauges.n_running as f64),
            ("requests_waiting", "Requests that wait in the queue.", gauges.n_waiting as f64),
            ("requests_lingering", "Requests that are worked on for clients that left.", gauges.n_lingering as f64),
            ("sessions", "Conversations that are kept.", gauges.n_sessions as f64),
            ("cache_bytes_used", "Bytes of the filled slots of all caches.", gauges.cache_used as f64),
            ("cache_bytes_limit", "Bytes of all slots of as many caches as may be.", gauges.cache_limit as f64),
            ("prefill_tokens_per_second", "How fast prompts are read.", rate),
        ];
        for (name, help, value) in rows {
            head(&mut out, name, "gauge", help);
            let _ = writeln!(out, "longtake_{name} {value}");
        }
        head(
            &mut out,
            "memory_bytes",
            "gauge",
            "Memory that is held: the model and the program, conversations, media of requests, videos that are read into takes, bodies.",
        );
        for (holder, n) in &gauges.memory {
            let _ = writeln!(out, "longtake_memory_bytes{{holder=\"{holder}\"}} {n}");
        }
        if let Some(limit) = gauges.memory_limit {
            head(&mut out, "memory_bytes_limit", "gauge", "Memory that may be held (--max-memory).");
            let _ = writeln!(out, "longtake_memory_bytes_limit {limit}");
        }
        head(&mut out, "store_bytes", "gauge", "Bytes of the store.");
        for (kind, n) in [("files", gauges.files_bytes), ("takes", gauges.takes_bytes)] {
            let _ = writeln!(out, "longtake_store_bytes{{kind=\"{kind}\"}} {n}");
        }
        head(&mut out, "takes", "gauge", "Takes by state.");
        for (status, n) in &gauges.takes {
            let _ = writeln!(out, "longtake_takes{{status=\"{status}\"}} {n}");
        }
        head(&mut out, "build_info", "gauge", "What runs here.");
        let (version, kernels) = (env!("CARGO_PKG_VERSION"), &gauges.kernels);
        let _ = writeln!(out, "longtake_build_info{{version=\"{version}\",kernels=\"{kernels}\"}} 1");
        out
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_was_counted() {
        let metrics = Metrics::default();
        metrics.request("/v1/models", 200, Duration::from_millis(3));
        metrics.request("/v1/models", 200, Duration::from_secs(3));
        metrics.add(Counter::JobPanics, 2);
        metrics.rates((640, Duration::from_secs(2)), (10, Duration::from_secs(1)));
        let text = metrics.text(&Gauges { n_running: 3, takes: vec![("ready", 1)], ..Gauges::default() });
        for line in [
            "longtake_requests_total{route=\"/v1/models\",status=\"200\"} 2",
            "longtake_request_seconds_bucket{route=\"/v1/models\",le=\"0.005\"} 1",
            "longtake_request_seconds_count{route=\"/v1/models\"} 2",
            "longtake_job_panics_total 2",
            "longtake_requests_running 3",
            "longtake_takes{status=\"ready\"} 1",
            "longtake_prefill_tokens_per_second 320",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!((metrics.seconds(640, 20) - 4.0).abs() < 1e-6);
    }
}
