package bmc

import (
	"context"
	"fmt"
	"strings"
)

// MediaKind is what a virtual medium looks like to the machine.
type MediaKind string

// The kinds of media.
const (
	MediaCD  MediaKind = "cd"
	MediaUSB MediaKind = "usb"
)

// ParseMediaKind reads cd or usb.
func ParseMediaKind(s string) (MediaKind, error) {
	switch k := MediaKind(strings.ToLower(s)); k {
	case MediaCD, MediaUSB:
		return k, nil
	case "dvd", "cdrom":
		return MediaCD, nil
	case "usbstick", "floppy", "removable":
		return MediaUSB, nil
	}
	return "", fmt.Errorf("%q is no kind of virtual media: use cd or usb", s)
}

// String returns the kind's name.
func (k MediaKind) String() string { return string(k) }

// Media is one virtual media device of a BMC.
type Media struct {
	// Slot is the BMC's own name of the device.
	Slot string
	// Kinds are what the device can be.
	Kinds    []MediaKind
	Inserted bool
	// Image is the URL that is inserted.
	Image string
}

// VirtualMedia is the driver's part of virtual media. Client.InsertMedia and
// Client.EjectMedia are what to call.
type VirtualMedia interface {
	Media(ctx context.Context) ([]Media, error)
	// RequestInsert inserts what image, an http or https URL, has, as a
	// write-protected medium. A device that has another medium is ejected first.
	RequestInsert(ctx context.Context, kind MediaKind, image string) error
	// RequestEject ejects every medium of the kind that was inserted by URL; it
	// is no error when there is none.
	RequestEject(ctx context.Context, kind MediaKind) error
}
