package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func content(n int) []byte {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func sum(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// server serves data with an ETag. before may end a request in its own way.
func server(t testing.TB, data []byte, before func(n int, w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	var n atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"one"`)
		if before != nil && before(int(n.Add(1)), w, r) {
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// cut answers as ServeContent would, but breaks the connection after n bytes.
func cut(w http.ResponseWriter, r *http.Request, data []byte, n int) {
	http.ServeContent(&cutter{w, n}, r, "", time.Time{}, bytes.NewReader(data))
	panic(http.ErrAbortHandler)
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	c.left -= n
	if err == nil && c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		err = errors.New("cut")
	}
	return n, err
}

func fetch(t testing.TB, c Config) ([]byte, string, error) {
	t.Helper()
	if c.Backoff == 0 {
		c.Backoff = time.Millisecond
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		return nil, "", err
	}
	defer s.Close()
	b, err := io.ReadAll(s)
	if err != nil {
		return b, "", err
	}
	return b, s.Sum(), nil
}

func TestStream(t *testing.T) {
	data := content(3 << 20)
	t.Run("a whole file comes with its digest", func(t *testing.T) {
		got, digest, err := fetch(t, Config{URL: server(t, data, nil), Size: int64(len(data))})
		if err != nil || !bytes.Equal(got, data) || digest != sum(data) {
			t.Errorf("%d bytes, %s, %v", len(got), digest, err)
		}
	})
	t.Run("a connection cut again and again is resumed", func(t *testing.T) {
		url := server(t, data, func(n int, w http.ResponseWriter, r *http.Request) bool {
			if want := n > 1; (r.Header.Get("If-Range") == `"one"`) != want {
				t.Errorf("request %d: If-Range = %q", n, r.Header.Get("If-Range"))
			}
			if n < 12 {
				cut(w, r, data, 200_000+n)
			}
			return false
		})
		got, digest, err := fetch(t, Config{URL: url})
		if err != nil || !bytes.Equal(got, data) || digest != sum(data) {
			t.Errorf("%d bytes, %s, %v", len(got), digest, err)
		}
	})
	t.Run("a server without ranges is read again from the start", func(t *testing.T) {
		url := server(t, data, func(n int, w http.ResponseWriter, r *http.Request) bool {
			r.Header.Del("Range")
			if n < 3 {
				cut(w, r, data, 1_000_000*n)
			}
			return false
		})
		if got, _, err := fetch(t, Config{URL: url}); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("an overloaded server is asked again", func(t *testing.T) {
		url := server(t, data, func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n < 4 {
				http.Error(w, "busy", []int{500, 503, 429}[n-1])
			}
			return n < 4
		})
		if got, _, err := fetch(t, Config{URL: url}); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("an empty file is a file", func(t *testing.T) {
		if got, digest, err := fetch(t, Config{URL: server(t, nil, nil)}); err != nil || len(got) != 0 || digest != sum(nil) {
			t.Errorf("%d bytes, %s, %v", len(got), digest, err)
		}
	})
}

func TestStream_Changed(t *testing.T) {
	data := content(1 << 20)
	for name, second := range map[string]http.HandlerFunc{
		"another ETag": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Etag", `"two"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		},
		"another length": func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data[1:]))
		},
		"shorter than what came": func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data[:10]))
		},
		"another place": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 7-%d/%d", len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := server(t, data, func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 1 {
					cut(w, r, data, 600_000)
				}
				second(w, r)
				return true
			})
			if _, _, err := fetch(t, Config{URL: url}); !errors.Is(err, ErrChanged) {
				t.Errorf("error = %v, want ErrChanged", err)
			}
		})
	}
	t.Run("nothing to tell by", func(t *testing.T) {
		var n atomic.Int32
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1)%2 == 1 {
				cut(w, r, data, 600_000)
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		}))
		defer s.Close()
		if _, _, err := fetch(t, Config{URL: s.URL}); !errors.Is(err, ErrChanged) {
			t.Errorf("without a digest: %v, want ErrChanged", err)
		}
		if got, _, err := fetch(t, Config{URL: s.URL, Digest: sum(data)}); err != nil || !bytes.Equal(got, data) {
			t.Errorf("with a digest: %d bytes, %v", len(got), err)
		}
	})
}

func TestStream_Permanent(t *testing.T) {
	data := content(1000)
	status := func(code int) string {
		return server(t, data, func(_ int, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true })
	}
	endless := func(w http.ResponseWriter) { w.(http.Flusher).Flush(); _, _ = w.Write(data) }
	for name, c := range map[string]struct {
		Config
		want string
	}{
		"no such file":      {Config{URL: status(404)}, "404 Not Found: there is no such file"},
		"not allowed":       {Config{URL: status(403)}, "this machine may not have it"},
		"an unasked status": {Config{URL: status(204)}, "204 No Content"},
		"another length":    {Config{URL: server(t, data, nil), Size: 1001}, "expected 1001 bytes, got 1000"},
		"no URL":            {Config{URL: "ftp://x/y"}, "not an http or https URL"},
		"chunks that end early": {Config{Size: 1001, URL: server(t, data, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			endless(w)
			return true
		})}, "expected 1001 bytes, got 1000"},
		"chunks that go on": {Config{Size: 999, URL: server(t, data, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			endless(w)
			return true
		})}, "expected 999 bytes, got more"},
		"neither length nor end": {Config{URL: server(t, data, func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\nsome")
				_ = conn.Close()
			}
			return true
		})}, "give a digest"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := fetch(t, c.Config)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want one with %q", err, c.want)
			}
		})
	}
}

// trip answers requests without a network, so that time can be simulated.
type trip func(n int, r *http.Request) (*http.Response, error)

func (f trip) client() *http.Client {
	n := 0
	return &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) { n++; return f(n, r) })}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// silent is a body that yields what it has, then nothing until its request ends.
type silent struct {
	io.Reader
	ctx context.Context
}

func (s silent) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err == io.EOF { //nolint:errorlint // bytes.Reader's own.
		<-s.ctx.Done()
		err = s.ctx.Err()
	}
	return n, err
}
func (silent) Close() error { return nil }

func answer(r *http.Request, data []byte, body io.ReadCloser) *http.Response {
	resp := &http.Response{StatusCode: 200, ProtoMajor: 1, ContentLength: int64(len(data)), Header: http.Header{"Etag": {`"x"`}}, Body: body, Request: r}
	var off int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &off); err == nil {
		resp.StatusCode = 206
		resp.ContentLength -= int64(off)
		resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(data)-1, len(data)))
	}
	return resp
}

func TestStream_Stalls(t *testing.T) {
	data := content(100_000)
	t.Run("a silent connection is made anew", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			c := trip(func(n int, r *http.Request) (*http.Response, error) {
				var off int
				_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &off)
				part := data[off:min(len(data), off+30_000)]
				return answer(r, data, silent{bytes.NewReader(part), r.Context()}), nil
			})
			got, _, err := fetch(t, Config{URL: "http://a/b", Client: c.client(), Backoff: time.Second})
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if took := time.Since(start); took < 90*time.Second || took > 100*time.Second {
				t.Errorf("three stalls of 30 s took %v", took)
			}
		})
	})
	t.Run("ten minutes without a byte are the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			c := trip(func(n int, r *http.Request) (*http.Response, error) {
				if n == 1 {
					return answer(r, data, io.NopCloser(bytes.NewReader(data[:50_000]))), nil
				}
				return nil, errors.New("connection refused")
			})
			got, _, err := fetch(t, Config{URL: "http://a/b", Client: c.client(), Backoff: time.Second})
			if want := "not a byte of http://a/b arrived for 10m0s; the last failure was: fetching http://a/b: connection refused"; err == nil || err.Error() != want {
				t.Errorf("error = %v, want %s", err, want)
			}
			if took := time.Since(start); len(got) != 50_000 || took != 10*time.Minute {
				t.Errorf("%d bytes in %v", len(got), took)
			}
		})
	})
	t.Run("a server that never answers is given up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := trip(func(_ int, r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			})
			_, _, err := fetch(t, Config{URL: "http://a/b", Client: c.client(), GiveUp: 2 * time.Minute})
			if err == nil || !strings.Contains(err.Error(), "arrived for 2m0s; the last failure was: fetching http://a/b: no byte for 30s") {
				t.Errorf("error = %v", err)
			}
		})
	})
	t.Run("a slow reader is not a slow server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			big := content(chunkSize * (chunks + 4))
			c := trip(func(n int, r *http.Request) (*http.Response, error) {
				if n > 1 {
					t.Errorf("request %d", n)
				}
				return answer(r, big, io.NopCloser(bytes.NewReader(big))), nil
			})
			s, err := Open(t.Context(), Config{URL: "http://a/b", Client: c.client()})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			time.Sleep(time.Hour)
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, big) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	})
	t.Run("closing ends a transfer at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := trip(func(_ int, r *http.Request) (*http.Response, error) {
				return answer(r, data, silent{bytes.NewReader(nil), r.Context()}), nil
			})
			s, err := Open(t.Context(), Config{URL: "http://a/b", Client: c.client()})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := s.Close(); err != nil || time.Since(start) != 0 {
				t.Errorf("Close took %v: %v", time.Since(start), err)
			}
			if _, err := s.Read(make([]byte, 1)); err == nil {
				t.Error("reading after Close succeeded")
			}
		})
	})
}

func TestStream_Range(t *testing.T) {
	data := content(1 << 20)
	t.Run("a part comes beside the stream, cuts or not", func(t *testing.T) {
		url := server(t, data, func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 2 || n == 3 {
				cut(w, r, data, 1000)
			}
			return false
		})
		s, err := Open(t.Context(), Config{URL: url, Backoff: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if got, err := s.Range(5000, 10_000); err != nil || !bytes.Equal(got, data[5000:15_000]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, data) {
			t.Errorf("the stream after it: %d bytes, %v", len(got), err)
		}
		if _, err := s.Range(2<<20, 5); err == nil || !strings.Contains(err.Error(), "beyond the end") {
			t.Errorf("beyond the end: %v", err)
		}
	})
	t.Run("a server without ranges is told apart", func(t *testing.T) {
		url := server(t, data, func(_ int, _ http.ResponseWriter, r *http.Request) bool { r.Header.Del("Range"); return false })
		s, err := Open(t.Context(), Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Range(5, 5); !errors.Is(err, ErrNoRanges) {
			t.Errorf("error = %v, want ErrNoRanges", err)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 5-9/*")
	f.Add("bytes */10")
	f.Fuzz(func(t *testing.T, s string) {
		start, total, err := contentRange(s)
		if err == nil && (start < 0 || total < -1) {
			t.Errorf("contentRange(%q) = %d, %d", s, start, total)
		}
	})
}
