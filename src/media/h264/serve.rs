//! The decoding child: requests from standard input, answers to standard output, and nothing else that it may do.

use std::io::{Read, Write};

use super::annexb::Picture;
use super::decode::H264;
use super::wire::{self, Request};
use crate::Result;

/// Most bytes of memory that the child may have, four times what the largest pictures need: what a fault or a bad file asks
/// for beyond that it does not get.
#[cfg(unix)]
const MAX_MEMORY: u64 = 1 << 30;

/// Decodes H.264 for the program that started this one, until that one has no more. It does not return before.
///
/// # Errors
/// `Limit` for requests that are too long, `Io` when nobody listens, or when the operating system does not limit the process.
pub fn serve_h264() -> Result<()> {
    limit_self()?;
    serve(&mut std::io::stdin().lock(), &mut std::io::stdout().lock())
}

fn serve(input: &mut impl Read, output: &mut impl Write) -> Result<()> {
    let mut decoder = H264::here()?;
    let (mut picture, mut body) = (Picture::default(), Vec::new());
    while let Some(request) = Request::read(input, &mut picture)? {
        body.clear();
        let outcome = decoder.decode(&picture, request.is_wanted, |planes| wire::push_planes(planes, &mut body))?;
        let size = outcome.picture.flatten();
        output.write_all(&wire::head(request.number, outcome.is_damaged, size))?;
        if size.is_some() {
            output.write_all(&body)?;
        }
        output.flush()?;
    }
    Ok(())
}

/// Gives up what decoding does not need: more memory, further files and sockets, writing to files, dumps.
fn limit_self() -> Result<()> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limits = [(Resource::As, MAX_MEMORY), (Resource::Nofile, 3), (Resource::Fsize, 0), (Resource::Core, 0)];
        for (resource, most) in limits {
            let most = Some(getrlimit(resource).maximum.map_or(most, |now| now.min(most)));
            let done = setrlimit(resource, Rlimit { current: most, maximum: most });
            // Elsewhere than on Linux the address space is counted in ways that leave no room for a limit.
            if cfg!(target_os = "linux") || resource != Resource::As {
                done.map_err(std::io::Error::from)?;
            }
        }
    }
    Ok(())
}
