//! MP4 files made and changed by the tests: boxes as bytes.

/// A box.
pub fn mp4_box(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32 + 8).to_be_bytes()[..], name, content].concat()
}

pub fn be(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_be_bytes()).collect()
}

/// Where the box that a path of names leads to begins (its head) and ends; each name the first of its kind.
pub fn find(bytes: &[u8], path: &[&[u8; 4]]) -> (usize, usize) {
    let (mut at, mut end) = (0, bytes.len());
    for (depth, name) in path.iter().enumerate() {
        loop {
            assert!(at + 8 <= end, "no box `{}`", String::from_utf8_lossy(*name));
            let size = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            let size = if size == 0 { end - at } else { size };
            if &bytes[at + 4..at + 8] == *name {
                end = at + size;
                break;
            }
            at += size;
        }
        if depth + 1 < path.len() {
            at += 8;
        }
    }
    (at, end)
}

/// The file with another index: the old one becomes free space, so that nothing moves, and the new one stands at the end.
pub fn with_moov(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let (at, end) = find(bytes, &[b"moov"]);
    let mut content = bytes[at + 8..end].to_vec();
    change(&mut content);
    let mut out = bytes.to_vec();
    out[at + 4..at + 8].copy_from_slice(b"free");
    out.extend(mp4_box(b"moov", &content));
    out
}

/// Replaces a box inside the content of `moov` and corrects the sizes of those around it; an empty one goes away.
pub fn replace(moov: &mut Vec<u8>, path: &[&[u8; 4]], with: &[u8]) {
    let (at, end) = find(moov, path);
    let by = with.len() as i64 - (end - at) as i64;
    for depth in 1..path.len() {
        let (outer, _) = find(moov, &path[..depth]);
        let size = i64::from(u32::from_be_bytes(moov[outer..outer + 4].try_into().unwrap())) + by;
        moov[outer..outer + 4].copy_from_slice(&(size as u32).to_be_bytes());
    }
    moov.splice(at..end, with.iter().copied());
}

/// Writes numbers over the content of a box, from `at` on.
pub fn patch(moov: &mut [u8], path: &[&[u8; 4]], at: usize, values: &[u32]) {
    let (start, end) = find(moov, path);
    let at = start + 8 + at;
    assert!(at + values.len() * 4 <= end);
    moov[at..at + values.len() * 4].copy_from_slice(&be(values));
}

/// The eight ways to turn and mirror a picture: `a b c d` of the display matrix.
pub const ORIENTATIONS: [[i32; 4]; 8] = [
    [1, 0, 0, 1],
    [0, 1, -1, 0],
    [-1, 0, 0, -1],
    [0, -1, 1, 0],
    [-1, 0, 0, 1],
    [1, 0, 0, -1],
    [0, 1, 1, 0],
    [0, -1, -1, 0],
];

/// Nine numbers of a display matrix.
pub fn matrix([a, b, c, d]: [i32; 4]) -> [u32; 9] {
    [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30].map(|v| v as u32)
}
