package file

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/image/transfer"
	"github.com/bedplate/bedplate/agent/step"
)

func (s *Service) write(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	in := input.Of(req.With)
	p, path := placeOf(in, req), in.Required("path")
	content, r := in.String("content"), remoteOf(in, req)
	if in.Has("content") == (r.url != "") {
		in.Fail("content", "give either `content` or `url`")
	}
	a := attributes{mode: octal(in, "mode", 0o644), dirMode: octal(in, "dir_mode", 0o755), uid: owner(in, "uid"), gid: owner(in, "gid")}
	if strings.HasSuffix(path, "/") || clean(path) == "" {
		in.Fail("path", "%q names a folder", path)
	}
	if err := in.Err(); err != nil {
		return step.Result{}, err
	}
	var n int64
	var device string
	err := s.within(ctx, p, false, func(v *Volume) error {
		device = v.Device
		return v.write(path, a, func(w io.Writer) (err error) {
			if r.url == "" {
				var m int
				m, err = io.WriteString(w, content)
				n = int64(m)
				return err
			}
			n, err = s.fetch(ctx, r, req, rep, w)
			return err
		})
	})
	if err != nil {
		return step.Result{}, fmt.Errorf("writing %s: %w", path, err)
	}
	rep.Log(step.Agent, fmt.Sprintf("wrote %d bytes to %s on %s", n, path, device))
	return step.Result{Outputs: map[string]any{"bytes": n, "device": device}}, nil
}

// octal reads permissions, which YAML has as text (0644) or, read as octal by
// its older version, as a number.
func octal(in *input.Reader, name string, otherwise uint32) uint32 {
	s := in.String(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	if err != nil || n > 0o7777 {
		in.Fail(name, "%q are no permissions such as 0644", s)
	}
	return uint32(n)
}

func owner(in *input.Reader, name string) int {
	n := in.Int(name, 0)
	if n < 0 || n > 1<<32-2 {
		in.Fail(name, "%d is no numeric id", n)
	}
	return int(n)
}

// remote is a file to be fetched.
type remote struct{ url, digest string }

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func remoteOf(in *input.Reader, req step.Request) remote {
	r := remote{url: in.String("url"), digest: strings.ToLower(in.String("digest"))}
	if base := req.Server["http_url"]; strings.HasPrefix(r.url, "/") && base != "" {
		r.url = strings.TrimSuffix(base, "/") + r.url
	}
	if r.digest != "" && !digestForm.MatchString(r.digest) {
		in.Fail("digest", "%q is not sha256: and 64 hexadecimal digits", r.digest)
	}
	return r
}

// fetch copies a remote file and checks its digest.
func (s *Service) fetch(ctx context.Context, r remote, req step.Request, rep step.Reporter, w io.Writer) (int64, error) {
	seed := fnv.New64a()
	fmt.Fprint(seed, req.Workflow, req.Step, req.Attempt)
	t, err := transfer.Open(ctx, transfer.Config{
		Client: req.HTTP, URL: r.url, Digest: r.digest, Seed: seed.Sum64(),
		Stall: s.Stall, GiveUp: s.GiveUp, Backoff: s.Backoff,
		Report: func(m string) { rep.Log(step.Agent, m) },
	})
	if err != nil {
		return 0, err
	}
	defer t.Close() // Always nil.
	n, err := io.Copy(&progress{w: w, t: t, rep: rep}, t)
	if err != nil {
		return n, fmt.Errorf("copying %s: %w", r.url, err)
	}
	if got := t.Sum(); r.digest != "" && got != r.digest {
		return n, fmt.Errorf("%s: expected digest %s, got %s", r.url, r.digest, got)
	}
	return n, nil
}

// progress reports with every write; the runner thins it out.
type progress struct {
	w   io.Writer
	t   *transfer.Stream
	rep step.Reporter
}

func (p *progress) Write(b []byte) (int, error) {
	p.rep.Progress(p.t.Received(), max(p.t.Size(), 0), "bytes", "")
	return p.w.Write(b)
}
