//! From the packets of a container to the frames that decoding gives.
//!
//! Frames stand in display order, on one clock that only goes forward: where the clock of the file begins anew (recordings
//! joined) or leaps (broadcasts), what follows is put behind what was there. Packets that give no frame are left out: what
//! stands before the first point where decoding can begin, as the decoder's own count of a few packets tells, and the second
//! field of a picture that comes in two packets.

use super::ffprobe::Tried;
use super::timeline::Timeline;
use super::video::Shown;

/// A time that is not known.
const NONE: i64 = i64::MIN;
/// Rate assumed where a file gives none.
const NOMINAL: (f64, &str) = (25.0, "25");
/// A step of a broadcast's clock that is no silence but another clock, in seconds.
const LEAP: f64 = 10.0;
/// Frames that may be decoded earlier than shown; H.264 allows 16.
const MAX_REORDERED: usize = 17;
/// Seconds by which guessed times may miss the length that the named rate gives.
const LEEWAY: f64 = 0.5;
/// How many packets tell that decoding cannot begin with the first one when none of them is a key frame.
const N_WITHOUT_KEY: usize = 300;

/// One packet of the video stream, times in ticks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Packet {
    pts: i64,
    dts: i64,
    duration: u32,
    is_key: bool,
    /// Decoded but not shown: outside an edit.
    is_hidden: bool,
}

/// A packet from a line such as `pts=3600|dts=0|duration=3600|flags=K_`; other lines are none.
pub(super) fn parse_packet(line: &str) -> Option<Packet> {
    let mut packet = Packet { pts: NONE, dts: NONE, duration: 0, is_key: false, is_hidden: false };
    let mut n_known = 0;
    for (name, value) in line.trim_end().split('|').filter_map(|field| field.split_once('=')) {
        // Times that cannot be: four of them still add up.
        let time = || value.parse::<i64>().ok().filter(|t| t.unsigned_abs() < 1 << 60).unwrap_or(NONE);
        n_known += 1;
        match name {
            "pts" => packet.pts = time(),
            "dts" => packet.dts = time(),
            "duration" => packet.duration = value.parse().unwrap_or(0),
            "flags" => (packet.is_key, packet.is_hidden) = (value.contains('K'), value.contains('D')),
            _ => n_known -= 1,
        }
    }
    (n_known >= 3).then_some(packet)
}

/// What the container says about time.
pub(super) struct Clock {
    pub ticks_per_second: f64,
    /// Seconds at which the file begins, whatever stream begins there.
    pub start: f64,
    /// Seconds at which the video ends, where the container says so of the stream.
    pub end: Option<f64>,
    /// Rates that it names, the likeliest first, and in the form to pass on.
    pub rates: Vec<(f64, String)>,
    /// Whether the clock may leap, and seeking may end anywhere between key frames.
    pub is_broadcast: bool,
}

impl Clock {
    /// Frames per second by the container's word.
    pub(super) fn fps(&self) -> f64 {
        self.rates.first().map_or(NOMINAL.0, |rate| rate.0)
    }
}

/// The frames of a video and how to reach them.
pub(super) struct Frames {
    timeline: Timeline,
    /// Whether frames come evenly whatever the times say: decode times are not display times, and guessed where a container
    /// keeps few of them.
    is_even: bool,
    pub fps: f64,
    /// Seconds.
    pub duration: f64,
    /// The rate at which they come, as `ffmpeg` wants it, when they come so evenly that a time tells a frame; otherwise frames
    /// have to be counted.
    pub rate: Option<String>,
    /// Seconds from the beginning of the file to the first frame, where there is a clock to seek by.
    start: Option<f64>,
    /// Frames at which decoding can begin, where seeking does not find these by itself.
    keys: Option<Vec<Key>>,
}

/// A frame at which decoding can begin.
struct Key {
    number: u32,
    /// When it is decoded, in ticks.
    dts: i64,
    /// The same in seconds from the beginning of the file.
    seconds: f64,
}

/// How to get at a frame without reading all that stands before it.
pub(super) struct Seek {
    /// Where to ask for, in seconds from the beginning of the file.
    pub at: f64,
    /// Seconds of frames that come from there and are not wanted.
    pub skip: f64,
}

impl Frames {
    /// `n` frames at the rate that the container names; nothing for none.
    pub(super) fn even(n: usize, clock: &Clock) -> Option<Frames> {
        let (fps, rate) = clock.rates.first().cloned().unwrap_or((NOMINAL.0, NOMINAL.1.into()));
        let timeline = Timeline::new((0..n as i64).collect(), 1, fps)?;
        let (duration, rate, start) = (n as f64 / fps, Some(rate), Some(0.0));
        Some(Frames { timeline, is_even: true, fps, duration, rate, start, keys: None })
    }

    pub(super) fn n_frames(&self) -> usize {
        self.timeline.n_frames()
    }

    /// Which frame stands at `index` of the steady sequence.
    pub(super) fn shown_at(&self, index: usize) -> usize {
        if self.is_even { index.min(self.n_frames() - 1) } else { self.timeline.shown_at(index) }
    }

    /// The same, and when it appears.
    pub(super) fn shown(&self, index: usize) -> Shown {
        let even = Shown { number: index, seconds: index as f64 / self.fps };
        if self.is_even { even } else { self.timeline.shown(index) }
    }

    /// How to seek to frame `number`; nothing where only the beginning of the file will do.
    pub(super) fn seek(&self, number: usize) -> Option<Seek> {
        let seconds = |number| self.timeline.seconds(number);
        let gap = (seconds(number) - seconds(number.checked_sub(1)?)).clamp(0.0, 1.0 / self.fps);
        // A little early, so that rounding cannot lose the frame nor catch the one before.
        let at = self.start? + seconds(number) - gap / 4.0;
        let Some(keys) = &self.keys else { return Some(Seek { at, skip: 0.0 }) };
        // Of the frames around the key frame itself, some need those before it.
        let is_early = |key: &Key| key.number as usize + MAX_REORDERED <= number;
        let key = &keys[keys.partition_point(is_early).checked_sub(1)?];
        let from = key.seconds - 1.0 / self.fps;
        (from > 0.0 && from < at).then_some(Seek { at: from, skip: at - from })
    }
}

/// All packets of a video in the order of the file.
pub(super) struct Listing {
    packets: Vec<Packet>,
}

impl Listing {
    /// Nothing without a packet.
    pub(super) fn new(packets: Vec<Packet>) -> Option<Listing> {
        (!packets.is_empty()).then_some(Listing { packets })
    }

    /// Whether decoding can begin anywhere, by the container's word.
    pub(super) fn has_key(&self) -> bool {
        self.first_key().is_some()
    }

    fn first_key(&self) -> Option<usize> {
        self.packets.iter().position(|packet| packet.is_key)
    }

    /// How many packets to decode to learn which of them give frames: some `after` the first key frame, or none where the
    /// beginning leaves no doubt.
    pub(super) fn n_to_try(&self, clock: &Clock, after: usize) -> Option<usize> {
        let Some(first) = self.first_key() else {
            return Some(N_WITHOUT_KEY.min(self.packets.len()));
        };
        let n = self.packets.len().min(first.saturating_add(after));
        let (key, rest) = (self.packets[first], &self.packets[first..n]);
        let is_sure = first == 0 && rest.iter().all(|p| p.pts != NONE && p.pts >= key.pts) && !self.is_crowded(clock);
        (!is_sure).then_some(n)
    }

    /// Whether there are distinctly more packets than the named rate has frames: two fields apart, perhaps.
    fn is_crowded(&self, clock: &Clock) -> bool {
        let times = || self.packets.iter().take(1000).filter(|p| p.dts != NONE).map(|p| p.dts);
        let (Some(least), Some(most)) = (times().min(), times().max()) else { return false };
        let seconds = (most - least) as f64 / clock.ticks_per_second;
        seconds > 0.0 && (times().count() - 1) as f64 > seconds * clock.fps() * 1.2
    }

    /// The frames, given what the decoder made of the first packets; nothing when there are none.
    pub(super) fn frames(mut self, clock: &Clock, tried: Option<Tried>) -> Option<Frames> {
        let n_hidden = |n: usize| self.packets.iter().take(n).filter(|p| p.is_hidden).count();
        let n_lost = tried.map_or(0, |t| (t.n_packets - n_hidden(t.n_packets)).saturating_sub(t.n_frames));
        let is_halved = n_lost > 0 && self.is_crowded(clock);
        let lead = match tried {
            _ if is_halved => 0,
            // Nothing decodes, or nothing was tried: what stands before the key frame is lost at any rate.
            Some(Tried { n_frames: 0, .. }) | None => self.first_key().unwrap_or(0),
            Some(_) => n_lost,
        };
        let has_clock = self.packets.iter().any(|p| p.pts != NONE || p.dts != NONE) && clock.ticks_per_second > 0.0;
        let ticks_per_second = if has_clock { clock.ticks_per_second } else { clock.fps() };
        let has_pts = self.packets.iter().all(|p| p.pts != NONE);
        self.fill(has_clock, ticks_per_second / clock.fps());
        let OneClock { mut times, mut keys, n_clocks, mut last } =
            self.on_one_clock(has_pts, if clock.is_broadcast { LEAP * ticks_per_second } else { f64::INFINITY });
        if is_halved {
            keys.clear();
            let least = (0.75 * ticks_per_second / clock.fps()) as i64;
            let mut before = None;
            times.retain(|t| {
                let is_frame = before.is_none_or(|before| t - before >= least);
                before = if is_frame { Some(*t) } else { before };
                is_frame
            });
        }
        let lead = lead.min(times.len().saturating_sub(1));
        times.drain(..lead);
        keys.retain_mut(|key| {
            let (number, is_lost) = key.number.overflowing_sub(lead as u32);
            key.number = number;
            key.seconds = key.dts as f64 / ticks_per_second - clock.start;
            !is_lost
        });
        if let (Some(end), Some(time), 1, true) = (clock.end, times.last(), n_clocks, has_pts) {
            last = ((end * ticks_per_second).round() as i64).saturating_sub(*time).max(0);
        }
        let first = *times.first()?;
        // Decode times stand for display times, which come some frames later.
        let late = if has_pts { 0 } else { tried.and_then(|t| t.first).map_or(0, |t| t.saturating_sub(first)) };
        let start = first.saturating_add(late) as f64 / ticks_per_second - clock.start;
        let timeline = Timeline::new(times, last, ticks_per_second)?;
        let n = timeline.n_frames();
        let is_even = !has_pts || (0..n).all(|i| timeline.shown_at(i) == i);
        let span = timeline.seconds(n - 1);
        let fits = |fps: f64| (span - (n - 1) as f64 / fps).abs() < if has_pts { 0.25 / fps } else { LEEWAY };
        let named = clock.rates.iter().find(|rate| is_even && fits(rate.0));
        let (fps, duration) = match named {
            Some((fps, _)) => (*fps, n as f64 / fps),
            None => (timeline.fps(), timeline.duration()),
        };
        let rate = named.map_or_else(|| format!("{fps:.9}"), |rate| rate.1.clone());
        // After a seek, a broadcast without display times comes with times that are some frames off.
        let can_seek = has_clock && n_clocks == 1 && (has_pts || !clock.is_broadcast);
        let is_on_time = |i: usize| (timeline.seconds(i) - i as f64 / fps).abs() < 0.1 / fps;
        let is_steady = has_pts && n_clocks == 1 && !is_halved && (0..n).all(is_on_time);
        Some(Frames {
            timeline,
            is_even,
            fps,
            duration,
            rate: is_steady.then_some(rate),
            start: can_seek.then_some(start),
            keys: clock.is_broadcast.then_some(keys),
        })
    }

    /// Gives a decode time and a duration to packets that have none; `interval` is that of the named rate, in ticks.
    fn fill(&mut self, has_clock: bool, interval: f64) {
        let interval = interval.round().clamp(1.0, f64::from(u32::MAX)) as u32;
        let first = self.packets.iter().position(|p| p.dts != NONE).filter(|_| has_clock);
        let mut next = match first {
            // Those before the first known one come at the same steps.
            Some(at) => self.packets[at].dts - i64::from(interval).saturating_mul(at as i64),
            None => 0,
        };
        for packet in &mut self.packets {
            if packet.dts == NONE || !has_clock {
                packet.dts = next;
            }
            packet.duration = if packet.duration == 0 || !has_clock { interval } else { packet.duration };
            next = packet.dts.saturating_add(i64::from(packet.duration));
        }
    }

    /// Display times on one clock; a decode time that goes back, or `leap` ticks ahead, begins another one.
    fn on_one_clock(&self, has_pts: bool, leap: f64) -> OneClock {
        let mut shown =
            OneClock { times: Vec::with_capacity(self.packets.len()), keys: Vec::new(), n_clocks: 0, last: 0 };
        let is_joint = |pair: &[Packet]| pair[1].dts < pair[0].dts || (pair[1].dts - pair[0].dts) as f64 > leap;
        let mut from = 0;
        while from < self.packets.len() {
            let joint = self.packets[from..].windows(2).position(is_joint);
            let to = joint.map_or(self.packets.len(), |at| from + at + 1);
            shown.append(&self.packets[from..to], has_pts);
            from = to;
        }
        shown
    }
}

/// Frames on one clock, while they are collected.
struct OneClock {
    /// In display order.
    times: Vec<i64>,
    keys: Vec<Key>,
    n_clocks: usize,
    /// How long the last frame is shown.
    last: i64,
}

impl OneClock {
    /// Puts the frames of one clock behind those that are there.
    fn append(&mut self, packets: &[Packet], has_pts: bool) {
        let time = |p: &Packet| if has_pts { p.pts } else { p.dts };
        let mut part: Vec<&Packet> = packets.iter().filter(|p| !p.is_hidden).collect();
        part.sort_by_key(|p| time(p));
        let Some(first) = part.first() else { return };
        let shift = self.times.last().map_or(0, |end| end.saturating_add(self.last).saturating_sub(time(first)));
        for packet in &part {
            if packet.is_key {
                self.keys.push(Key { number: self.times.len() as u32, dts: packet.dts, seconds: 0.0 });
            }
            self.times.push(time(packet).saturating_add(shift));
        }
        self.n_clocks += 1;
        self.last = part.last().map_or(0, |packet| i64::from(packet.duration));
    }
}
