//! Messages in the making: their media are found, and what templates take is made of them.

use super::wire::Turn;
use crate::text::message::Call;
use crate::text::{Content, Message, Part};

/// A message in the making.
pub(crate) struct Open {
    pub role: &'static str,
    pub parts: Vec<Part>,
    /// Tools that an answer called.
    pub calls: Vec<Call>,
}

impl Open {
    /// Without its parts.
    pub(crate) fn new(turn: &mut Turn) -> Open {
        Open { role: turn.role.name(), parts: Vec::new(), calls: std::mem::take(&mut turn.calls) }
    }
}

/// Moves the video of a message that is one video and otherwise only text before the text: so questions about it share their
/// beginning, as models were trained. Says whether that changed anything.
pub(crate) fn video_first(open: &mut Open) -> bool {
    let is_video = |part: &Part| matches!(part, Part::Video { .. });
    let is_text = |part: &Part| matches!(part, Part::Text(_));
    let n_videos = open.parts.iter().filter(|part| is_video(part)).count();
    if open.role != "user" || n_videos != 1 || !open.parts.iter().all(|part| is_video(part) || is_text(part)) {
        return false;
    }
    let at = open.parts.iter().position(is_video).unwrap_or(0);
    open.parts[..=at].rotate_right(1);
    at > 0
}

/// As templates take it: text alone is text.
pub(crate) fn message(open: Open) -> Message {
    let is_text = open.parts.iter().all(|part| matches!(part, Part::Text(_)));
    let text = text_of(&open);
    let Open { role, parts, calls } = open;
    let content = if is_text { Content::Text(text) } else { Content::Parts(parts) };
    Message { calls, ..Message::new(role, content) }
}

/// All its text.
pub(crate) fn text_of(open: &Open) -> String {
    open.parts.iter().map(|part| if let Part::Text(text) = part { text.as_str() } else { "" }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::text::MediaSource;

    #[test]
    fn a_lone_video_goes_first_and_any_other_mix_stays() {
        let video = || Part::Video { source: MediaSource::Path("v".into()), options: Map::new() };
        let image = || Part::Image { source: "i".into(), options: Map::new() };
        let text = |t: &str| Part::Text(t.into());
        for (role, parts, want, moved) in [
            (
                "user",
                vec![text("a"), text("b"), video(), text("c")],
                vec![video(), text("a"), text("b"), text("c")],
                true,
            ),
            ("user", vec![video(), text("a")], vec![video(), text("a")], false),
            ("user", vec![text("a"), video(), image()], vec![text("a"), video(), image()], false),
            ("user", vec![text("a"), video(), video()], vec![text("a"), video(), video()], false),
            ("user", vec![text("a")], vec![text("a")], false),
        ] {
            let mut open = Open { role, parts, calls: Vec::new() };
            assert_eq!((video_first(&mut open), open.parts), (moved, want));
        }
    }
}
