package board

import (
	"context"
	"errors"
	"fmt"
	"io"

	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"time"
)

// Drive is one of the board's virtual drives.
type Drive string

// The drives.
const (
	CD  Drive = "Cd"
	USB Drive = "Usb"
)

// Drives are all drives there are.
var Drives = []Drive{CD, USB}

// Medium is what is in a drive. The zero value is nothing.
type Medium struct {
	// Image is the address it was got from.
	Image string `json:"image"`
	// File is the copy on the board, "" for an empty drive.
	File string `json:"file"`
	Size int64  `json:"size"`
	// Writable lets the machine write to the board's copy.
	Writable bool `json:"writable,omitempty"`
}

// Bounds of fetching a medium.
const (
	maxMedium     = 16 << 30
	mediaDeadline = 10 * time.Minute
	headDeadline  = 30 * time.Second
)

// Errors of virtual media.
var (
	ErrInserted = errors.New("there is a medium in the drive: eject it first")
	ErrEmpty    = errors.New("there is no medium in the drive")
	ErrFetch    = errors.New("the image can't be fetched")
)

// Login is what a server of images may want.
type Login struct{ Username, Password string }

// Media returns what is in a drive.
func (b *Board) Media(d Drive) Medium {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.saved.Media[d]
}

// Insert fetches an image, keeps a copy and puts it into the drive. It returns
// when the machine sees it.
func (b *Board) Insert(ctx context.Context, d Drive, image string, writable bool, login Login) error {
	u, err := url.Parse(image)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || len(image) > maxURI {
		return fmt.Errorf("%w: Image %q: want an http or https address", ErrInvalid, image)
	}
	if b.dir == "" {
		return fmt.Errorf("%w: this board has no room for images", ErrFetch)
	}
	if err := b.reserve(d); err != nil {
		return err
	}
	defer b.release(d)
	m := Medium{Image: image, File: filepath.Join(b.dir, "media-"+string(d)+mediaSuffix(d)), Writable: writable && d == USB}
	if m.Size, err = b.fetch(ctx, u, login, m.File); err != nil {
		return fmt.Errorf("%w: %v", ErrFetch, err)
	}
	b.order.Lock()
	defer b.order.Unlock()
	if err := b.machine.SetMedia(ctx, d, m); err != nil {
		return errors.Join(err, os.Remove(m.File))
	}
	return b.setMedium(d, m)
}

// reserve keeps others from the drive while an image for it is fetched.
func (b *Board) reserve(d Drive) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.saved.Media[d].File != "" {
		return ErrInserted
	}
	if b.fetching[d] {
		return ErrBusy
	}
	b.fetching[d] = true
	return nil
}

func (b *Board) release(d Drive) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.fetching, d)
}

func mediaSuffix(d Drive) string {
	if d == CD {
		return ".iso"
	}
	return ".img"
}

func (b *Board) setMedium(d Drive, m Medium) error {
	b.mu.Lock()
	if b.saved.Media == nil {
		b.saved.Media = map[Drive]Medium{}
	}
	b.saved.Media[d] = m
	if m.File == "" {
		delete(b.saved.Media, d)
	}
	err := b.saveLocked()
	b.mu.Unlock()
	b.publish(Event{Kind: MediaChanged})
	return err
}

// Client is an HTTP client that connects as the board does. Certificates are
// not checked, as boards don't: what they fetch they can't verify. Close its
// idle connections after use.
func (b *Board) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:           b.dial,
		TLSClientConfig:       insecure(),
		ResponseHeaderTimeout: headDeadline,
		TLSHandshakeTimeout:   headDeadline,
		DisableKeepAlives:     true,
	}}
}

// fetch copies what is at u to a file, within a deadline and a size.
func (b *Board) fetch(ctx context.Context, u *url.URL, login Login, file string) (size int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, mediaDeadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return 0, err
	}
	if login.Username != "" {
		req.SetBasicAuth(login.Username, login.Password)
	}
	resp, err := b.Client().Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s answered %s", u.Host, resp.Status)
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	size, err = io.Copy(out, io.LimitReader(resp.Body, maxMedium+1))
	err = errors.Join(err, out.Close())
	switch {
	case err != nil:
	case size == 0:
		err = errors.New("it is empty")
	case size > maxMedium:
		err = fmt.Errorf("it has more than %d bytes", int64(maxMedium))
	case resp.ContentLength >= 0 && size != resp.ContentLength:
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = pad(file, size)
	}
	if err != nil {
		return 0, errors.Join(err, os.Remove(file))
	}
	return size, nil
}

// pad fills the last sector, because QEMU refuses images with half a one.
func pad(file string, size int64) error {
	const sector = 2048
	if size%sector == 0 {
		return nil
	}
	return os.Truncate(file, size+sector-size%sector)
}

// Eject takes the medium out of the drive.
func (b *Board) Eject(ctx context.Context, d Drive) error {
	b.order.Lock()
	defer b.order.Unlock()
	return b.eject(ctx, d)
}

func (b *Board) eject(ctx context.Context, d Drive) error {
	m := b.Media(d)
	if m.File == "" {
		return ErrEmpty
	}
	if err := b.machine.SetMedia(ctx, d, Medium{}); err != nil {
		return err
	}
	if err := b.setMedium(d, Medium{}); err != nil {
		return err
	}
	if err := os.Remove(m.File); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("ejecting %s: %w", m.Image, err)
	}
	return nil
}

// ejectIfFaulty loses the media just before a machine starts.
func (b *Board) ejectIfFaulty(ctx context.Context, a Action) {
	if _, faulty := b.Fault(FaultMediaEjects); !faulty || a == ForceOff || a == GracefulShutdown || a == NMI {
		return
	}
	for _, d := range Drives {
		if err := b.eject(ctx, d); err != nil && !errors.Is(err, ErrEmpty) {
			b.log.Warn("losing virtual media", "machine", b.machine.Hardware().Name, "err", err)
		}
	}
}

// Name is the last part of the image's address.
func (m Medium) Name() string {
	u, err := url.Parse(m.Image)
	if err != nil || m.Image == "" {
		return ""
	}
	return path.Base(u.Path)
}
