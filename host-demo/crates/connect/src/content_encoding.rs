//! Response bodies in an encoding that was not requested.
//!
//! Every request asks for `identity`, but some servers and proxies compress all the same. Gzip and
//! deflate are decoded here, so that what is searched for the token, recorded and handed on is the
//! text itself. Any other encoding is an error that names it.

use std::io::{self, Write};

use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// The longest name of an encoding that an error repeats.
const NAME_MAX: usize = 40;

/// What servers write that is not an encoding: the body is plain.
const PLAIN: [&str; 4] = ["", "identity", "none", "utf-8"];

/// Why a body could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// An encoding that is not decoded here.
    #[error("the response is compressed ({0}), which was not requested")]
    Unsupported(String),
    /// The body is not what its encoding says.
    #[error("the response is not valid {0}, although its Content-Encoding says so")]
    Invalid(&'static str),
    /// The decoded body exceeds the limit, in bytes.
    #[error("the decoded response is longer than {0} bytes")]
    TooLong(usize),
}

/// Decodes a body that comes in pieces, up to a length.
pub struct Decoder {
    coding: Coding,
    max: usize,
    /// Nothing came yet. An empty body is empty in every encoding.
    is_empty: bool,
}

enum Coding {
    Gzip(MultiGzDecoder<Bounded>),
    /// Which of the two it is shows in its first byte.
    Deflate,
    Zlib(ZlibDecoder<Bounded>),
    Raw(DeflateDecoder<Bounded>),
    Unsupported(String),
}

impl Decoder {
    /// The decoder for a response with these headers; `None` if its body is plain. `max` bounds the
    /// decoded body: a few kilobytes of gzip can decode to many megabytes.
    pub fn of(headers: &HeaderMap, max: usize) -> Option<Self> {
        let values = headers.get_all(CONTENT_ENCODING).iter();
        let texts: Vec<String> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase())
            .collect();
        let names = texts.iter().flat_map(|text| text.split(','));
        let names: Vec<&str> = names
            .map(str::trim)
            .filter(|name| !PLAIN.contains(name))
            .collect();
        let coding = match names[..] {
            [] => return None,
            // RFC 9110, section 8.4.1.3: `x-gzip` is the same.
            ["gzip" | "x-gzip"] => Coding::Gzip(MultiGzDecoder::new(Bounded::new(max))),
            ["deflate"] => Coding::Deflate,
            _ => Coding::Unsupported(legible(&names.join(", "))),
        };
        Some(Self {
            coding,
            max,
            is_empty: true,
        })
    }

    /// What this piece adds to the decoded body.
    pub fn decode(&mut self, piece: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let Some(first) = piece.first() else {
            return Ok(Vec::new());
        };
        self.is_empty = false;
        if let Coding::Deflate = self.coding {
            let sink = Bounded::new(self.max);
            // RFC 9110, section 8.4.1.2: "deflate" is zlib's format, and some servers send the bare
            // stream. Zlib's first byte ends in 8 (RFC 1950, section 2.2). A bare stream's would
            // do so only with a stored block whose padding is not zero.
            self.coding = match first & 0x0f {
                8 => Coding::Zlib(ZlibDecoder::new(sink)),
                _ => Coding::Raw(DeflateDecoder::new(sink)),
            };
        }
        let written = match &mut self.coding {
            Coding::Gzip(decoder) => decoder.write_all(piece),
            Coding::Zlib(decoder) => decoder.write_all(piece),
            Coding::Raw(decoder) => decoder.write_all(piece),
            Coding::Unsupported(name) => return Err(DecodeError::Unsupported(name.clone())),
            Coding::Deflate => Ok(()),
        };
        self.taken(written)
    }

    /// The rest of the decoded body, when the whole body has come.
    pub fn finish(&mut self) -> Result<Vec<u8>, DecodeError> {
        if self.is_empty {
            return Ok(Vec::new());
        }
        let finished = match &mut self.coding {
            Coding::Gzip(decoder) => decoder.try_finish(),
            Coding::Zlib(decoder) => decoder.try_finish(),
            Coding::Raw(decoder) => decoder.try_finish(),
            Coding::Deflate | Coding::Unsupported(_) => Ok(()),
        };
        self.taken(finished)
    }

    fn taken(&mut self, result: io::Result<()>) -> Result<Vec<u8>, DecodeError> {
        let (sink, name) = match &mut self.coding {
            Coding::Gzip(decoder) => (decoder.get_mut(), "gzip"),
            Coding::Zlib(decoder) => (decoder.get_mut(), "deflate"),
            Coding::Raw(decoder) => (decoder.get_mut(), "deflate"),
            Coding::Deflate | Coding::Unsupported(_) => return Ok(Vec::new()),
        };
        if sink.is_full {
            return Err(DecodeError::TooLong(self.max));
        }
        result.map_err(|_| DecodeError::Invalid(name))?;
        Ok(std::mem::take(&mut sink.bytes))
    }
}

/// A whole body, decoded if its headers say that it is compressed.
pub fn decoded(
    headers: &HeaderMap,
    body: bytes::Bytes,
    max: usize,
) -> Result<bytes::Bytes, DecodeError> {
    let Some(mut decoder) = Decoder::of(headers, max) else {
        return Ok(body);
    };
    let mut all = decoder.decode(&body)?;
    all.extend(decoder.finish()?);
    Ok(all.into())
}

/// What was decoded and not taken yet, with an end to all that is ever decoded.
struct Bounded {
    bytes: Vec<u8>,
    left: usize,
    is_full: bool,
}

impl Bounded {
    const fn new(max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            left: max,
            is_full: false,
        }
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(bytes.len()) {
            Some(left) => self.left = left,
            None => {
                self.is_full = true;
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn legible(name: &str) -> String {
    let printable = name.chars().filter(char::is_ascii_graphic);
    printable.take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn raw(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn headers(encodings: &[&str]) -> HeaderMap {
        let value = |text: &&str| (CONTENT_ENCODING, HeaderValue::from_str(text).unwrap());
        encodings.iter().map(value).collect()
    }

    fn decode(encodings: &[&str], pieces: &[&[u8]]) -> Result<Vec<u8>, DecodeError> {
        let Some(mut decoder) = Decoder::of(&headers(encodings), 1000) else {
            return Ok(pieces.concat());
        };
        let mut all = Vec::new();
        for piece in pieces {
            all.extend(decoder.decode(piece)?);
        }
        all.extend(decoder.finish()?);
        Ok(all)
    }

    proptest! {
        #[test]
        fn every_supported_encoding_is_decoded_in_pieces_of_any_size(
            text in "[ -~]{0,300}",
            size in 1_usize..40,
        ) {
            let text = text.as_bytes();
            for (encoding, body) in [
                ("gzip", gzip(text)),
                ("GZIP", gzip(text)),
                ("x-gzip", gzip(text)),
                ("gzip, identity", gzip(text)),
                ("deflate", zlib(text)),
                ("deflate", raw(text)),
                ("identity", text.to_vec()),
                ("utf-8", text.to_vec()),
            ] {
                let pieces: Vec<&[u8]> = body.chunks(size).collect();
                prop_assert_eq!(decode(&[encoding], &pieces), Ok(text.to_vec()), "{}", encoding);
            }
        }
    }

    #[test]
    fn gzip_of_several_members_is_one_body() {
        let body = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(decode(&["gzip"], &[&body]), Ok(b"one two".to_vec()));
    }

    #[test]
    fn an_unsupported_encoding_is_named() {
        for (encodings, name) in [
            (&["br"][..], "br"),
            (&["ZSTD"], "zstd"),
            (&["gzip, br"], "gzip,br"),
            (&["gzip", "gzip"], "gzip,gzip"),
            (&["x\ty"], "xy"),
        ] {
            let error = decode(encodings, &[b"{}"]).unwrap_err();
            assert_eq!(error, DecodeError::Unsupported(name.to_owned()));
        }
        let text = decode(&["br"], &[b"{}"]).unwrap_err().to_string();
        assert_eq!(
            text,
            "the response is compressed (br), which was not requested"
        );
    }

    #[test]
    fn an_empty_body_is_empty_in_every_encoding() {
        for encoding in ["gzip", "deflate", "br"] {
            assert_eq!(decode(&[encoding], &[]), Ok(Vec::new()));
            assert_eq!(decode(&[encoding], &[b""]), Ok(Vec::new()));
        }
    }

    #[test]
    fn a_body_that_is_not_what_its_header_says_is_invalid() {
        let (gzip, zlib, raw) = (gzip(b"some text"), zlib(b"some text"), raw(b"some text"));
        let longer = [&zlib[..], b"more"].concat();
        for (encoding, body) in [
            ("gzip", &b"{\"plain\":1}"[..]),
            ("deflate", b"{\"plain\":1}"),
            ("gzip", &gzip[..gzip.len() - 1]),
            ("gzip", &gzip[..5]),
            ("deflate", &zlib[..zlib.len() - 1]),
            ("deflate", &raw[..raw.len() - 1]),
            ("deflate", &longer),
        ] {
            let invalid = DecodeError::Invalid(encoding);
            assert_eq!(decode(&[encoding], &[body]), Err(invalid), "{body:?}");
        }
    }

    #[test]
    fn a_small_body_that_decodes_to_a_large_one_is_refused() {
        let text = vec![b' '; 1 << 20];
        for (encoding, body) in [("gzip", gzip(&text)), ("deflate", zlib(&text))] {
            assert!(body.len() < 2000);
            let error = decode(&[encoding], &[&body]);
            assert_eq!(error, Err(DecodeError::TooLong(1000)));
        }
    }
}
