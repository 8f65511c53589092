//! Messages on a local stream: a 4-byte big-endian length, then that many bytes of JSON.
//!
//! The length is compared with [`MAX_FRAME`] before anything is allocated. Used between the daemon and its shims.

use serde::{Serialize, de::DeserializeOwned};

/// Largest message between banger's own processes, in bytes.
pub const MAX_FRAME: usize = 4 << 20;
/// Length of the header in front of each message, in bytes.
pub const HEADER: usize = 4;

/// Error of encoding or decoding a message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The announced or actual length exceeds the limit.
    #[error("a message of {length} bytes, where {limit} are allowed")]
    TooLarge {
        /// Announced or actual length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The body is not the expected JSON.
    #[error("a message that does not parse")]
    Malformed(#[from] serde_json::Error),
}

/// Encodes a message with its header.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - HEADER;
    match u32::try_from(length) {
        Ok(header) if length <= MAX_FRAME => bytes[..HEADER].copy_from_slice(&header.to_be_bytes()),
        _ => return Err(FrameError::TooLarge { length, limit: MAX_FRAME }),
    }
    Ok(bytes)
}

/// Length announced by a header, checked against [`MAX_FRAME`].
pub fn body_length(header: [u8; HEADER]) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_FRAME { Err(FrameError::TooLarge { length, limit: MAX_FRAME }) } else { Ok(length) }
}

/// Decodes the body of a message.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = encode(&vec!["a", "b"]).unwrap();
        let (header, body) = bytes.split_at(HEADER);
        assert_eq!(body_length(header.try_into().unwrap()).unwrap(), body.len());
        assert_eq!(decode::<Vec<String>>(body).unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_believed() {
        assert!(matches!(body_length([0xff; 4]), Err(FrameError::TooLarge { .. })));
        assert!(encode(&"x".repeat(MAX_FRAME)).is_err());
    }
}
