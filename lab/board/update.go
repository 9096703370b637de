package board

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Parts that have firmware.
const (
	FirmwareBIOS = "BIOS"
	FirmwareBMC  = "BMC"
	FirmwareNIC  = "NIC"
)

// bmcVersion is that of a board as delivered.
const bmcVersion = "1.0.0"

// Firmware is an entry of the inventory.
type Firmware struct {
	Part    string
	Name    string
	Version string
	// Staged is a version that waits for a reset; empty if none does.
	Staged string
}

// Firmwares returns the firmware of every part.
func (b *Board) Firmwares() []Firmware {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := map[string]string{FirmwareBIOS: "System Firmware", FirmwareBMC: "Management Controller Firmware", FirmwareNIC: "Network Adapter Firmware"}
	var all []Firmware
	for _, part := range []string{FirmwareBIOS, FirmwareBMC, FirmwareNIC} {
		all = append(all, Firmware{Part: part, Name: names[part], Version: b.versionLocked(part), Staged: b.saved.Staged[part]})
	}
	return all
}

// Version returns the version that a part runs.
func (b *Board) Version(part string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.versionLocked(part)
}

func (b *Board) versionLocked(part string) string {
	if v := b.saved.Firmware[part]; v != "" {
		return v
	}
	if part == FirmwareBIOS {
		return b.machine.Hardware().BIOSVersion
	}
	return bmcVersion
}

func (b *Board) nextVersionLocked(part string) string {
	if v := b.saved.Staged[part]; v != "" {
		return v
	}
	return b.versionLocked(part)
}

// activateLocked makes a staged version the running one.
func (b *Board) activateLocked(part string) {
	v := b.saved.Staged[part]
	if v == "" {
		return
	}
	if b.saved.Firmware == nil {
		b.saved.Firmware = map[string]string{}
	}
	b.saved.Firmware[part] = v
	delete(b.saved.Staged, part)
	b.recordLocked(Entry{Sensor: part, Type: sensorOther, Severity: OK, MessageID: "FirmwareActivated", Message: fmt.Sprintf("%s firmware %s is active.", part, v)})
}

// An image of firmware is text: a first line that says what it is, then
// fields, an empty line, and whatever else.
//
//	BEDPLATE LAB FIRMWARE
//	part: BIOS
//	version: 2.1.0
const firmwareMagic = "BEDPLATE LAB FIRMWARE"

// Bounds of an image.
const (
	maxFirmware       = 64 << 20
	maxFirmwareHeader = 1 << 10
	updateDeadline    = 5 * time.Minute
)

// FirmwareImage makes an image that a board takes.
func FirmwareImage(part, version string) []byte {
	return fmt.Appendf(nil, "%s\npart: %s\nversion: %s\n\n", firmwareMagic, part, version)
}

// parseFirmware reads the head of an image.
func parseFirmware(r io.Reader) (part, version string, err error) {
	in := bufio.NewScanner(io.LimitReader(r, maxFirmwareHeader))
	if !in.Scan() || in.Text() != firmwareMagic {
		return "", "", errors.New("it is no firmware image of this board")
	}
	for in.Scan() && in.Text() != "" {
		key, value, _ := strings.Cut(in.Text(), ": ")
		switch key {
		case "part":
			part = value
		case "version":
			version = value
		}
	}
	if !slices.Contains([]string{FirmwareBIOS, FirmwareBMC, FirmwareNIC}, part) {
		return "", "", fmt.Errorf("it is for part %q, which this server doesn't have", part)
	}
	if version == "" || len(version) > 32 || strings.ContainsFunc(version, func(c rune) bool { return c <= ' ' || c > '~' || c == ',' }) {
		return "", "", fmt.Errorf("version %q: want 1 to 32 printable characters", version)
	}
	return part, version, nil
}

// Update starts a task that fetches an image and writes it.
func (b *Board) Update(image string, login Login) (Task, error) {
	u, err := url.Parse(image)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || len(image) > maxURI {
		return Task{}, fmt.Errorf("%w: ImageURI %q: want an http or https address", ErrInvalid, image)
	}
	return b.startTask("Firmware update from "+image, func(ctx context.Context, step func(percent int, message string)) error {
		step(5, "Fetching the image.")
		text, err := b.fetchFirmware(ctx, u, login)
		if err != nil {
			return fmt.Errorf("fetching the image: %w", err)
		}
		return b.write(ctx, text, step)
	})
}

// Push starts a task that writes an image that came with the request.
func (b *Board) Push(image io.Reader) (Task, error) {
	head, err := io.ReadAll(io.LimitReader(image, maxFirmware+1))
	if err != nil {
		return Task{}, fmt.Errorf("%w: reading the image: %v", ErrInvalid, err)
	}
	if len(head) > maxFirmware {
		return Task{}, fmt.Errorf("%w: the image has more than %d bytes", ErrInvalid, maxFirmware)
	}
	text := string(head[:min(len(head), maxFirmwareHeader)])
	return b.startTask("Firmware update by push", func(ctx context.Context, step func(int, string)) error { return b.write(ctx, text, step) })
}

// fetchFirmware reads the whole image and returns its head.
func (b *Board) fetchFirmware(ctx context.Context, u *url.URL, login Login) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return "", err
	}
	if login.Username != "" {
		req.SetBasicAuth(login.Username, login.Password)
	}
	resp, err := b.Client().Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s", u.Host, resp.Status)
	}
	var head strings.Builder
	if _, err := io.CopyN(&head, resp.Body, maxFirmwareHeader); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxFirmware))
	if err == nil && n == maxFirmware {
		err = fmt.Errorf("it has more than %d bytes", maxFirmware)
	}
	return head.String(), err
}

// write checks an image and makes it wait for the reset that activates it.
func (b *Board) write(ctx context.Context, text string, step func(int, string)) error {
	step(30, "Checking the image.")
	part, version, err := parseFirmware(strings.NewReader(text))
	if err != nil {
		return err
	}
	for percent := 40; percent < 100; percent += 20 {
		step(percent, fmt.Sprintf("Writing %s firmware %s.", part, version))
		if err := b.flashStep(ctx); err != nil {
			return err
		}
	}
	b.order.Lock()
	defer b.order.Unlock()
	b.mu.Lock()
	staged := maps.Clone(b.saved.Staged)
	if staged == nil {
		staged = map[string]string{}
	}
	staged[part] = version
	b.saved.Staged = staged
	b.marks.settings++
	if part == FirmwareNIC || part == FirmwareBIOS && !b.machine.On() {
		b.activateLocked(part) // nothing runs it now
	}
	err = b.saveLocked()
	b.mu.Unlock()
	if err != nil {
		return err
	}
	if err := b.applyNext(ctx); err != nil {
		return err
	}
	if part != FirmwareBMC {
		return nil
	}
	// As boards do after an update of their own.
	step(99, "Restarting the management controller.")
	b.Restart()
	return nil
}

// flashPause stands for the time that writing takes, so that progress can be seen.
const flashPause = 50 * time.Millisecond

// HoldFlash has the writing of firmware wait until the channel is closed, so
// that an update can be seen under way.
func (b *Board) HoldFlash(until <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flash = until
}

// flashStep waits as long as one step of writing takes.
func (b *Board) flashStep(ctx context.Context) error {
	b.mu.Lock()
	held := b.flash
	b.mu.Unlock()
	if held == nil {
		return pause(ctx, flashPause)
	}
	select {
	case <-held:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
