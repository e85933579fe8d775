//! An answer's body on its way to the guest: bounded, timed, decoded, and searched for the token.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::{LengthLimitError, Limited};

use defender_connect::content_encoding::{DecodeError, Decoder};
use defender_core::clock::{Clock, Moment, Sleep};

/// Above what the guest reads of an answer (1 MiB), so that it is the guest who says that one is
/// too long.
const BODY_MAX: usize = 2 * 1024 * 1024;

/// The same for a list, of which it reads 16 MiB.
const LIST_MAX: usize = 17 * 1024 * 1024;

/// In how many pieces it may come: each costs the host and the guest some turns, however small it
/// is. Of one byte each, two million would keep a processor busy for seconds.
const PIECES_MAX: usize = 10_000;

/// How long the next part of a body may take.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(10);

/// What is shorter is found everywhere, and is no token of Entra's, which have a thousand
/// characters and more.
const TOKEN_MIN: usize = 16;

/// What an answer must not contain: the token that the request carried.
///
/// It is searched for as it is and as JSON may escape it. That finds what is repeated by mistake,
/// by a debugging page or a gateway's error, say. A service that means harm has the token anyway,
/// and a guest that is given it in another form has nobody but this service to send it to.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenScanner {
    bytes: Arc<[u8]>,
    /// At each length: how much of the token a text still ends in when the next byte does not fit
    /// (Knuth, Morris, Pratt).
    failure_table: Arc<[usize]>,
}

impl TokenScanner {
    pub(crate) fn new(token: &[u8]) -> Self {
        if token.len() < TOKEN_MIN {
            return Self::default();
        }
        let mut failure_table = vec![0; token.len()];
        let mut length = 0;
        for at in 1..token.len() {
            while length > 0 && token[at] != token[length] {
                length = failure_table[length - 1];
            }
            if token[at] == token[length] {
                length += 1;
            }
            failure_table[at] = length;
        }
        Self {
            bytes: token.into(),
            failure_table: failure_table.into(),
        }
    }

    /// How much of the token the text ends in, with one byte more.
    fn step(&self, mut length: usize, byte: u8) -> usize {
        while length > 0 && self.bytes.get(length) != Some(&byte) {
            length = self.failure_table[length - 1];
        }
        if self.bytes.get(length) == Some(&byte) {
            length + 1
        } else {
            0
        }
    }

    pub(crate) fn is_in(&self, text: &[u8]) -> bool {
        Search::new(self.clone()).finds(text)
    }
}

/// A search through a text that comes in pieces.
struct Search {
    needle: TokenScanner,
    /// How much of the token the text ends in, as it is and unescaped.
    raw: usize,
    unescaped: usize,
    escape: Escape,
}

/// A JSON escape that has begun (RFC 8259, section 7).
#[derive(Clone, Copy)]
enum Escape {
    None,
    Backslash,
    /// So many digits of `\uXXXX`, and what they come to.
    Digits(u8, u32),
}

impl Search {
    const fn new(needle: TokenScanner) -> Self {
        Self {
            needle,
            raw: 0,
            unescaped: 0,
            escape: Escape::None,
        }
    }

    /// Whether the token is in what came so far. Once it was found there is no going on.
    fn finds(&mut self, piece: &[u8]) -> bool {
        let whole = self.needle.bytes.len();
        if whole == 0 {
            return false;
        }
        piece.iter().any(|&byte| {
            self.raw = self.needle.step(self.raw, byte);
            if let Some(byte) = self.unescape(byte) {
                self.unescaped = self.needle.step(self.unescaped, byte);
            }
            self.raw == whole || self.unescaped == whole
        })
    }

    /// The byte that the text has here, once it is known.
    fn unescape(&mut self, byte: u8) -> Option<u8> {
        let (next, known) = match (self.escape, byte) {
            (Escape::None, b'\\') => (Escape::Backslash, None),
            (Escape::None, byte) => (Escape::None, Some(byte)),
            (Escape::Backslash, b'u') => (Escape::Digits(0, 0), None),
            (Escape::Backslash, byte) => (Escape::None, Some(byte)),
            (Escape::Digits(count, value), byte) => match char::from(byte).to_digit(16) {
                Some(digit) if count < 3 => (Escape::Digits(count + 1, value * 16 + digit), None),
                // What is not ASCII is not in a token either.
                Some(digit) => (
                    Escape::None,
                    Some(u8::try_from(value * 16 + digit).unwrap_or(0)),
                ),
                None if byte == b'\\' => (Escape::Backslash, None),
                None => (Escape::None, Some(byte)),
            },
        };
        self.escape = next;
        known
    }

    /// At least how much of the text's end may be the token's beginning. Every character of it may
    /// be written in six.
    const fn doubtful(&self) -> usize {
        let escape = match self.escape {
            Escape::None => 0,
            Escape::Backslash => 1,
            Escape::Digits(count, _) => 2 + count as usize,
        };
        let unescaped = match self.unescaped {
            0 => 0,
            length => 6 * length + escape,
        };
        if unescaped > self.raw {
            unescaped
        } else {
            self.raw
        }
    }
}

/// Why an answer's body ends before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The token is in it, and it is withheld from there on.
    #[error("the answer repeats the token, and is withheld")]
    Echoed,
    /// It has more bytes than any answer of its kind.
    #[error("the answer is longer than any of its kind")]
    TooLong,
    /// It comes in too many pieces.
    #[error("the answer comes in too many pieces")]
    TooManyPieces,
    /// Its next part takes too long.
    #[error("the next part of the answer did not come within {} s", IDLE_MAX.as_secs())]
    Stalled,
    /// The connection failed in the middle of it.
    #[error("the answer broke off")]
    BrokenOff,
    /// The body is compressed in a way that was not requested and is not supported: it could not be
    /// searched for the token.
    #[error("the response is compressed ({0}), which was not requested")]
    Encoding(String),
    /// The body is not in the encoding that its header names.
    #[error("the response is not valid {0}, although its Content-Encoding says so")]
    Undecodable(&'static str),
}

impl From<DecodeError> for AnswerError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Unsupported(name) => Self::Encoding(name),
            DecodeError::Invalid(name) => Self::Undecodable(name),
            DecodeError::TooLong(_) => Self::TooLong,
        }
    }
}

/// What to do when the token is found.
pub(crate) type OnEcho = Box<dyn FnOnce() + Send>;

/// The body. No trailers: nobody asked for them, and the list of headers that a guest may see is
/// not theirs.
pub(crate) struct Answer<B> {
    body: Limited<B>,
    decoder: Option<Decoder>,
    pieces: usize,
    search: Search,
    /// What came and is not handed on yet, because the token may begin in it.
    held: Bytes,
    on_echo: Option<OnEcho>,
    clock: Arc<dyn Clock>,
    deadline: Moment,
    idle: Option<Sleep>,
    ended: bool,
}

impl<B> Answer<B> {
    /// `headers` are the answer's: they name the body's encoding. `deadline` is the call's, which
    /// ends the call without help from here.
    pub(crate) fn new(
        body: B,
        headers: &HeaderMap,
        is_list: bool,
        needle: TokenScanner,
        on_echo: OnEcho,
        clock: Arc<dyn Clock>,
        deadline: Moment,
    ) -> Self {
        let max = if is_list { LIST_MAX } else { BODY_MAX };
        Self {
            body: Limited::new(body, max),
            decoder: Decoder::of(headers, max),
            pieces: 0,
            search: Search::new(needle),
            held: Bytes::new(),
            on_echo: Some(on_echo),
            clock,
            deadline,
            idle: None,
            ended: false,
        }
    }

    /// What can be handed on after this piece of the body, as it was sent.
    fn take(&mut self, piece: Bytes) -> Result<Bytes, AnswerError> {
        self.pieces += 1;
        if self.pieces > PIECES_MAX {
            return Err(AnswerError::TooManyPieces);
        }
        match &mut self.decoder {
            Some(decoder) => {
                let decoded = decoder.decode(&piece)?;
                self.sift(decoded.into())
            }
            None => self.sift(piece),
        }
    }

    /// What is left to be handed on after the last piece.
    fn finish(&mut self) -> Result<Bytes, AnswerError> {
        let rest = self.decoder.as_mut().map(Decoder::finish).transpose()?;
        let mut last = BytesMut::from(self.sift(rest.unwrap_or_default().into())?);
        last.extend_from_slice(&std::mem::take(&mut self.held));
        Ok(last.freeze())
    }

    /// What can be handed on after this piece of the decoded body.
    fn sift(&mut self, piece: Bytes) -> Result<Bytes, AnswerError> {
        if self.search.finds(&piece) {
            if let Some(on_echo) = self.on_echo.take() {
                on_echo();
            }
            return Err(AnswerError::Echoed);
        }
        let mut all = if self.held.is_empty() {
            piece
        } else {
            let mut both = BytesMut::with_capacity(self.held.len() + piece.len());
            both.extend_from_slice(&self.held);
            both.extend_from_slice(&piece);
            both.freeze()
        };
        self.held = all.split_off(all.len().saturating_sub(self.search.doubtful()));
        Ok(all)
    }

    /// Completes with nothing when the next part takes too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let idle = self
            .idle
            .get_or_insert_with(|| self.clock.sleep_until(self.clock.now() + IDLE_MAX));
        if idle.as_mut().poll(cx).is_pending() || self.clock.now() >= self.deadline {
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl<B> Body for Answer<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        while !this.ended {
            let result = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => {
                    if this.poll_idle(cx).is_pending() {
                        return Poll::Pending;
                    }
                    Err(AnswerError::Stalled)
                }
                Poll::Ready(None) => {
                    this.ended = true;
                    this.finish()
                }
                Poll::Ready(Some(Err(error))) if error.is::<LengthLimitError>() => {
                    Err(AnswerError::TooLong)
                }
                Poll::Ready(Some(Err(_))) => Err(AnswerError::BrokenOff),
                Poll::Ready(Some(Ok(frame))) => {
                    this.idle = None;
                    frame
                        .into_data()
                        .map_or_else(|_| Ok(Bytes::new()), |piece| this.take(piece))
                }
            };
            match result {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(error) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicBool, Ordering};

    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;
    use http::header::{CONTENT_ENCODING, HeaderMap};
    use http_body_util::BodyExt as _;
    use proptest::prelude::*;

    use super::*;
    use defender_core::clock::ManualClock;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn headers(encodings: &[&str]) -> HeaderMap {
        let value = |text: &&str| (CONTENT_ENCODING, HeaderValue::from_str(text).unwrap());
        encodings.iter().map(value).collect()
    }

    const TOKEN: &str = "eyJ0eXAi/eyJ0eXAiOiJKV1Qi.eyJ0eXAi/b+c-d_e~f==";

    /// Frames as they are told, and then an end or nothing more.
    struct Script(VecDeque<Frame<Bytes>>, bool);

    impl Body for Script {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            match self.0.pop_front() {
                None if self.1 => Poll::Pending,
                frame => Poll::Ready(frame.map(Ok)),
            }
        }
    }

    fn script(pieces: &[&[u8]]) -> VecDeque<Frame<Bytes>> {
        pieces
            .iter()
            .map(|piece| Frame::data(Bytes::copy_from_slice(piece)))
            .collect()
    }

    /// What a guest gets of it, how it ends, and whether the token was found.
    fn read(pieces: &[&[u8]]) -> (Vec<u8>, Result<(), String>, bool) {
        read_encoded(&[], pieces)
    }

    /// The same of a body in these encodings.
    fn read_encoded(encodings: &[&str], pieces: &[&[u8]]) -> (Vec<u8>, Result<(), String>, bool) {
        let clock = ManualClock::new();
        let found = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&found);
        let deadline = clock.now() + Duration::from_secs(30);
        let mut answer = Answer::new(
            Script(script(pieces), false),
            &headers(encodings),
            false,
            TokenScanner::new(TOKEN.as_bytes()),
            Box::new(move || note.store(true, Ordering::Relaxed)),
            Arc::new(clock),
            deadline,
        );
        let mut got = Vec::new();
        let mut end = Ok(());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(frame)) = Pin::new(&mut answer).poll_frame(&mut cx) {
            match frame {
                Ok(frame) => got.extend_from_slice(frame.data_ref().unwrap()),
                Err(error) => end = Err(format!("{error:?}")),
            }
        }
        (got, end, found.load(Ordering::Relaxed))
    }

    #[test]
    fn an_answer_with_the_token_in_it_breaks_off_before_it() {
        let slash = TOKEN.replace('/', "\\/");
        let upper: String = TOKEN.bytes().map(|b| format!("\\u{b:04X}")).collect();
        let mixed = TOKEN.replace('y', "\\u0079").replace('=', "\\u003d");
        let doubled = format!("eyJ0eXAi/eyJ0eXAi/{TOKEN}");
        for written in [TOKEN, &slash, &upper, &mixed, &doubled] {
            let text = format!("{{\"header\":\"Bearer {written}\",\"more\":1}}");
            for size in [1, 2, 3, 7, 20, text.len()] {
                let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
                let (got, end, found) = read(&pieces);
                assert!(
                    found && end.is_err(),
                    "{written} in pieces of {size}: {end:?}"
                );
                let got = String::from_utf8(got).unwrap();
                assert!(text.starts_with(&got), "{got}");
                assert!(!got.contains("eyJ0") || written == doubled, "{got}");
                assert!(!got.contains("iOiJ"), "{got}");
            }
        }
    }

    #[test]
    fn the_token_is_found_in_a_compressed_answer() {
        let text = format!("{{\"header\":\"Bearer {TOKEN}\",\"more\":1}}");
        let body = gzip(text.as_bytes());
        for size in [1, 7, body.len()] {
            let pieces: Vec<&[u8]> = body.chunks(size).collect();
            let (got, end, found) = read_encoded(&["gzip"], &pieces);
            assert!(found && end.is_err(), "in pieces of {size}: {end:?}");
            assert!(text.as_bytes().starts_with(&got), "{got:?}");
            assert!(!String::from_utf8(got).unwrap().contains("eyJ0"));
        }
    }

    #[test]
    fn a_compressed_answer_reaches_the_guest_decoded() {
        let text = format!("{{\"id\":\"{}\"}}", &TOKEN[..20]);
        let body = gzip(text.as_bytes());
        let (got, end, found) = read_encoded(&["gzip"], &[&body[..9], &body[9..]]);
        assert_eq!((got, end, found), (text.into_bytes(), Ok(()), false));
    }

    #[test]
    fn a_body_that_cannot_be_decoded_is_withheld() {
        for (encoding, error) in [
            ("br", "Encoding(\"br\")"),
            ("gzip", "Undecodable(\"gzip\")"),
        ] {
            let (got, end, found) = read_encoded(&[encoding], &[b"{\"a\":1}"]);
            assert_eq!(
                (got, end, found),
                (Vec::new(), Err(error.to_owned()), false)
            );
        }
    }

    #[test]
    fn a_compressed_answer_is_bounded_by_its_decoded_length() {
        for length in [BODY_MAX + 1, 4 * BODY_MAX] {
            let (got, end, _) = read_encoded(&["gzip"], &[&gzip(&vec![b' '; length])]);
            assert_eq!(end, Err("TooLong".to_owned()));
            assert!(got.len() <= BODY_MAX, "{}", got.len());
        }
    }

    #[test]
    fn an_escape_cut_short_hides_no_token() {
        for before in ["\\", "\\u", "\\u00", "\\u12x\\", "\\\\"] {
            let text = format!("{before}{TOKEN}");
            let (_, end, found) = read(&[text.as_bytes()]);
            assert!(found && end.is_err(), "{text}");
        }
    }

    #[test]
    fn a_header_is_searched_in_the_same_way() {
        let needle = TokenScanner::new(TOKEN.as_bytes());
        assert!(needle.is_in(format!("text/{TOKEN}; x").as_bytes()));
        assert!(!needle.is_in(&TOKEN.as_bytes()[1..]));
        assert!(!needle.is_in(b""));
    }

    #[test]
    fn what_is_too_short_for_a_token_is_not_searched_for() {
        assert!(!TokenScanner::new(b"application").is_in(b"application/json"));
        assert!(!TokenScanner::new(b"").is_in(b""));
    }

    #[test]
    fn a_body_in_crumbs_is_given_up() {
        let (got, end, _) = read(&vec![&b"x"[..]; PIECES_MAX + 1]);
        assert_eq!((got.len(), end.is_err()), (PIECES_MAX, true));
        let (got, end, _) = read(&vec![&b"x"[..]; PIECES_MAX]);
        assert_eq!((got.len(), end), (PIECES_MAX, Ok(())));
    }

    #[test]
    fn trailers_do_not_reach_the_guest() {
        let mut frames = script(&[b"body"]);
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-token", TOKEN.parse().unwrap());
        frames.push_back(Frame::trailers(trailers));
        let clock = ManualClock::new();
        let deadline = clock.now() + Duration::from_secs(30);
        let body = Script(frames, false);
        let needle = TokenScanner::default();
        let answer = Answer::new(
            body,
            &HeaderMap::new(),
            false,
            needle,
            Box::new(|| ()),
            Arc::new(clock),
            deadline,
        );
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut collecting = std::pin::pin!(answer.collect());
        let Poll::Ready(Ok(all)) = collecting.as_mut().poll(&mut cx) else {
            panic!("all of it is there")
        };
        assert!(all.trailers().is_none());
        assert_eq!(all.to_bytes(), "body");
    }

    #[test]
    fn a_body_that_falls_silent_is_given_up_and_one_that_goes_on_is_not() {
        let clock = ManualClock::new();
        let deadline = clock.now() + Duration::from_secs(30);
        let body = Script(script(&[b"{"]), true);
        let needle = TokenScanner::default();
        let hands = Arc::new(clock.clone());
        let plain = &HeaderMap::new();
        let mut answer = Answer::new(body, plain, false, needle, Box::new(|| ()), hands, deadline);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut next = |answer: &mut Answer<Script>| Pin::new(answer).poll_frame(&mut cx);

        assert!(matches!(next(&mut answer), Poll::Ready(Some(Ok(_)))));
        assert!(next(&mut answer).is_pending());
        clock.advance(IDLE_MAX.saturating_sub(Duration::from_nanos(1)));
        assert!(next(&mut answer).is_pending());
        answer.body = Limited::new(Script(script(&[b"}"]), true), BODY_MAX);
        assert!(matches!(next(&mut answer), Poll::Ready(Some(Ok(_)))));
        clock.advance(Duration::from_nanos(1));
        assert!(
            next(&mut answer).is_pending(),
            "it counts from the last part"
        );
        clock.advance(IDLE_MAX);
        let end = next(&mut answer);
        assert!(
            matches!(end, Poll::Ready(Some(Err(AnswerError::Stalled)))),
            "{end:?}"
        );
        assert!(matches!(next(&mut answer), Poll::Ready(None)));
    }

    #[test]
    fn the_calls_deadline_comes_before_a_silent_bodys() {
        let clock = ManualClock::new();
        let deadline = clock.now() + Duration::from_secs(30);
        let body = Script(VecDeque::new(), true);
        let hands = Arc::new(clock.clone());
        let mut answer = Answer::new(
            body,
            &HeaderMap::new(),
            false,
            TokenScanner::default(),
            Box::new(|| ()),
            hands,
            deadline,
        );
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut answer).poll_frame(&mut cx).is_pending());
        clock.advance(Duration::from_secs(30));
        assert!(Pin::new(&mut answer).poll_frame(&mut cx).is_pending());
    }

    proptest! {
        /// Whatever has no token in it arrives as it was, however it is cut.
        #[test]
        fn what_has_no_token_in_it_arrives_whole(
            text in r#"([a-z{}": \\]|eyJ0eXAi/|eyJ0eXAiOiJKV1Qi\.|\\u0065yJ0|\\u00){0,40}"#,
            size in 1_usize..20,
        ) {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let (got, end, found) = read(&pieces);
            prop_assert_eq!(String::from_utf8(got).unwrap(), text);
            prop_assert!(end.is_ok() && !found);
        }
    }
}
