//! Header blocks of SPDY/3: length-prefixed names and values, compressed by one
//! zlib stream per direction that starts from a dictionary of the standard.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;

/// Headers of a stream: names in lower case.
pub type Headers = Vec<(String, String)>;

/// Largest block after decompression.
const MAX_BLOCK: usize = 64 << 10;

/// The dictionary's words; each stands in it after its length as 32 bits.
const WORDS: [&str; 64] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
];

/// What follows the words, `origin` being the last of them.
const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416\
417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 \
Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service \
UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, \
Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,\
text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::new();
    for word in WORDS.iter().chain(&["origin"]) {
        dictionary.put_u32(word.len() as u32);
        dictionary.put_slice(word.as_bytes());
    }
    dictionary.put_slice(REST.as_bytes());
    dictionary
}

/// Compresses the header blocks of one direction.
pub struct Encoder(Compress);

impl Encoder {
    /// A fresh direction.
    pub fn new() -> Result<Self, SpdyError> {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&dictionary())
            .map_err(|_| SpdyError::Protocol("the dictionary was refused"))?;
        Ok(Self(zlib))
    }

    /// One block.
    pub fn encode(&mut self, headers: &Headers) -> Result<Bytes, SpdyError> {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(plain.len() + 128);
        let start = self.0.total_in();
        loop {
            let done = (self.0.total_in() - start) as usize;
            let before = self.0.total_out();
            out.reserve(256);
            self.0
                .compress_vec(&plain[done..], &mut out, FlushCompress::Sync)
                .map_err(|_| SpdyError::Protocol("headers cannot be compressed"))?;
            // All is out once a call leaves room in the output.
            if out.len() < out.capacity() || self.0.total_out() == before {
                return Ok(out.into());
            }
        }
    }
}

/// Decompresses the header blocks of one direction.
pub struct Decoder(Decompress);

impl Default for Decoder {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Decoder {
    /// One block.
    pub fn decode(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        let plain = self.inflate(block)?;
        read(&mut plain.as_slice()).ok_or(SpdyError::Protocol("malformed headers"))
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let malformed = || SpdyError::Protocol("headers cannot be decompressed");
        let mut out = Vec::with_capacity(1024);
        let start = self.0.total_in();
        loop {
            let done = (self.0.total_in() - start) as usize;
            if out.len() > MAX_BLOCK {
                return Err(SpdyError::Protocol("headers too large"));
            }
            out.reserve(1024);
            let (read, written) = (self.0.total_in(), self.0.total_out());
            match self.0.decompress_vec(&block[done..], &mut out, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(malformed()),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(|_| malformed())?;
                    continue;
                }
                Err(_) => return Err(malformed()),
            }
            let consumed = (self.0.total_in() - start) as usize == block.len();
            let stuck = self.0.total_in() == read && self.0.total_out() == written;
            if consumed && out.len() < out.capacity() || stuck {
                return if consumed { Ok(out) } else { Err(malformed()) };
            }
        }
    }
}

fn read(plain: &mut &[u8]) -> Option<Headers> {
    let text = |plain: &mut &[u8]| {
        let length = plain.try_get_u32().ok()? as usize;
        let bytes = plain.get(..length)?.to_vec();
        plain.advance(length);
        String::from_utf8(bytes).ok()
    };
    let count = plain.try_get_u32().ok()?;
    // Each pair takes eight bytes at least; more cannot be there.
    if count as usize > plain.len() / 8 {
        return None;
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(plain)?.to_ascii_lowercase();
        headers.push((name, text(plain)?));
    }
    plain.is_empty().then_some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_dictionary_is_the_standards() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        // Adler-32, which every compressed stream names in its first bytes.
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_follow_each_other_in_one_stream() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::default());
        let long = "x".repeat(5000);
        for pairs in [&[("streamtype", "stdin")][..], &[], &[("streamtype", &long), ("port", "80")]]
        {
            let sent = headers(pairs);
            let block = encoder.encode(&sent).unwrap();
            assert_eq!(decoder.decode(&block).unwrap(), sent);
        }
    }

    #[test]
    fn bad_blocks_are_refused() {
        assert!(Decoder::default().decode(b"not zlib").is_err());
        let mut encoder = Encoder::new().unwrap();
        let block = encoder.encode(&headers(&[("a", "b")])).unwrap();
        assert!(Decoder::default().decode(&block[..block.len() / 2]).is_err(), "half a block");
        // Much from little: a block of a few hundred bytes that would be huge.
        let bomb = encoder.encode(&headers(&[("a", &"x".repeat(MAX_BLOCK * 4))])).unwrap();
        assert!(Decoder::default().decode(&bomb).is_err());
        let lies: [&[u8]; 3] =
            [&[0, 0, 0, 9], &[0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0], &[0, 0, 0, 0, 1]];
        for lie in lies {
            assert_eq!(read(&mut &*lie), None);
        }
    }
}
