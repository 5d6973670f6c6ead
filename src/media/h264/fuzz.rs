//! H.264 headers from bytes, for `crate::fuzzing`.

use super::annexb::{decode_order_sps, escape, unescape};
use super::wire::{Answer, Request, head};
use super::{AvcConfig, Picture, Sps};
use crate::fuzzing::choice;
use crate::media::limits::MAX_PIXELS;

pub(crate) fn check_sps(sps: &Sps) {
    assert!(sps.height > 0 && sps.width > 0 && (sps.height * sps.width) as u64 <= MAX_PIXELS);
}

/// A parameter set, a decoder configuration, a sample, or what the decoding child hears or says.
pub(crate) fn h264(input: &[u8]) {
    let Some((kind, data)) = choice(input) else { return };
    match kind % 5 {
        0 => {
            let before = Sps::parse(data);
            if let Ok(sps) = &before {
                check_sps(sps);
            }
            // The other profile gives pictures of the same size, unless the set was cut off behind them.
            if let (Ok(before), Some(mut changed)) = (before, decode_order_sps(data)) {
                // High, whose fields it has; as Scalable Baseline only the decoder takes it.
                changed[1] = 100;
                let after = Sps::parse(&changed).unwrap_or(before);
                assert_eq!((after.height, after.width), (before.height, before.width));
            }
        }
        1 => {
            let Ok(config) = AvcConfig::parse(data) else { return };
            assert!((1..=4).contains(&config.length_size));
            if let Some(nal) = &config.sps {
                let _ = Sps::parse(nal);
            }
        }
        2 => {
            let Some((size, data)) = choice(data) else { return };
            let mut picture = Picture::default();
            picture.read(data, usize::from(size % 4) + 1);
            assert!(picture.annex_b.len() <= 5 * data.len() + 64);
            picture.read(&[], 4);
            assert!(picture.annex_b.is_empty() && picture.n_cut == 0 && picture.sps.is_none());
        }
        3 => {
            let mut escaped = Vec::new();
            escape(data, &mut escaped);
            assert!(!escaped.windows(3).any(|w| w[0] == 0 && w[1] == 0 && w[2] < 3), "a start code inside");
            let end = data.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
            assert!(unescape(&escaped) == data[..end], "escaping does not round-trip");
        }
        _ => {
            if let Some(Ok(answer)) = Answer::read(&mut &data[..]) {
                assert!(answer.planes().is_none_or(|planes| (planes.height * planes.width) as u64 <= MAX_PIXELS));
            }
            let mut picture = Picture::default();
            if let Ok(Some(request)) = Request::read(&mut &data[..], &mut picture) {
                assert!(request.write(&picture).is_ok_and(|message| message[..8] == data[..8]));
            }
        }
    }
}

pub(crate) fn h264_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![b"\x03\0\0\x01\0\0\0\x02\0\0\x03\x07".to_vec()];
    for [config, sps, sample] in crate::media::mp4::fuzz::parts_of_seeds() {
        seeds.extend([[&[1], &config[..]].concat(), [&[0], &sps[..]].concat(), [&[2, 3], &sample[..]].concat()]);
    }
    seeds.push([&[4], &head(1, true, Some((1, 2)))[..], &[7; 4]].concat());
    seeds
}
