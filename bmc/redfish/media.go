package redfish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/stmcginnis/gofish/redfish"

	"github.com/bedplate/bedplate/bmc"
)

// virtualMedia is one device (VirtualMedia schema).
type virtualMedia struct {
	Path       string `json:"@odata.id"`
	ID         string `json:"Id"`
	MediaTypes []redfish.VirtualMediaType
	Inserted   bool
	Image      string
	ImageName  string
	// ConnectedVia is how the medium is there, or NotConnected.
	ConnectedVia string
	Actions      struct {
		Insert action `json:"#VirtualMedia.InsertMedia"`
		Eject  action `json:"#VirtualMedia.EjectMedia"`
	}
}

// kinds returns what the device can be.
func (v virtualMedia) kinds() []bmc.MediaKind {
	var kinds []bmc.MediaKind
	if slices.Contains(v.MediaTypes, redfish.CDMediaType) || slices.Contains(v.MediaTypes, redfish.DVDMediaType) {
		kinds = append(kinds, bmc.MediaCD)
	}
	if slices.Contains(v.MediaTypes, redfish.USBStickMediaType) || slices.Contains(v.MediaTypes, redfish.FloppyMediaType) {
		kinds = append(kinds, bmc.MediaUSB)
	}
	if len(v.MediaTypes) == 0 && strings.HasPrefix(strings.ToLower(v.ID), "cd") {
		kinds = append(kinds, bmc.MediaCD)
	}
	return kinds
}

// Media lists the devices.
func (d *Driver) Media(ctx context.Context) ([]bmc.Media, error) {
	devices, err := d.devices(ctx)
	if err != nil {
		return nil, err
	}
	var media []bmc.Media
	for _, v := range devices {
		m := bmc.Media{Slot: v.ID, Kinds: v.kinds(), Inserted: v.inserted()}
		if m.Inserted {
			if m.Image = v.Image; m.Image == "" {
				m.Image = v.ImageName
			}
		}
		media = append(media, m)
	}
	return media, nil
}

// devices reads the devices of the system (VirtualMedia moved there in
// ComputerSystem 1.13) or else of its managers.
func (d *Driver) devices(ctx context.Context) ([]virtualMedia, error) {
	ctx = withBudget(ctx)
	s, err := d.system(ctx)
	if err != nil {
		return nil, err
	}
	collections := []string{s.VirtualMedia.Path}
	if s.VirtualMedia.Path == "" {
		if collections, err = d.managerMedia(ctx); err != nil {
			return nil, err
		}
	}
	var devices []virtualMedia
	var problem error
	for _, path := range collections {
		err := d.each(ctx, path, func(path string, raw json.RawMessage) {
			v := virtualMedia{}
			if err := decode(raw, &v); err != nil {
				problem = err
				return
			}
			v.Path = path
			devices = append(devices, v)
		}, func(err error) { problem = err })
		if err != nil {
			return nil, err
		}
	}
	if len(devices) == 0 {
		if problem != nil {
			return nil, problem
		}
		return nil, d.lacks("virtual media")
	}
	return devices, nil
}

// managerMedia returns the collections of devices of the managers.
func (d *Driver) managerMedia(ctx context.Context) ([]string, error) {
	managers, err := d.managers(ctx)
	if err != nil {
		return nil, err
	}
	var collections []string
	for _, path := range managers {
		var m struct{ VirtualMedia link }
		if _, err := d.get(ctx, path, &m); err != nil {
			return nil, err
		}
		if m.VirtualMedia.Path != "" {
			collections = append(collections, m.VirtualMedia.Path)
		}
	}
	return collections, nil
}

// RequestInsert inserts into a free device of the kind, or one that is made free.
func (d *Driver) RequestInsert(ctx context.Context, kind bmc.MediaKind, image string) error {
	devices, err := d.devices(ctx)
	if err != nil {
		return err
	}
	devices = slices.DeleteFunc(devices, func(v virtualMedia) bool { return !slices.Contains(v.kinds(), kind) })
	if len(devices) == 0 {
		return d.lacks(fmt.Sprintf("virtual media as %s", kind))
	}
	device := devices[0]
	for _, v := range devices {
		if v.inserted() && v.Image == image {
			return nil
		}
		if !v.inserted() && device.inserted() {
			device = v
		}
	}
	if device.inserted() {
		if err := d.eject(ctx, device); err != nil {
			return fmt.Errorf("ejecting %s from %s: %w", device.Image, device.ID, err)
		}
	}
	return d.insert(ctx, device, kind, image)
}

// insert tries the ways to say it, from the schema's own to those of quirks.go,
// until one isn't refused as badly said.
func (d *Driver) insert(ctx context.Context, v virtualMedia, kind bmc.MediaKind, image string) error {
	var refused *Error
	var err error
	for _, body := range insertBodies(v, kind, image) {
		if v.Actions.Insert.Target == "" {
			break
		}
		if _, err = d.post(ctx, v.Actions.Insert.Target, body); err == nil || !errors.As(err, &refused) || !refused.badRequest() {
			return err
		}
	}
	patchErr := d.patch(ctx, v.Path, map[string]any{"Image": image, "Inserted": true})
	if errors.As(patchErr, &refused) && refused.badRequest() {
		patchErr = d.patch(ctx, v.Path, map[string]any{"Image": image})
	}
	if patchErr != nil && err != nil {
		return err // of the way that the service offers
	}
	return patchErr
}

// RequestEject ejects from every device of the kind.
func (d *Driver) RequestEject(ctx context.Context, kind bmc.MediaKind) error {
	devices, err := d.devices(ctx)
	if err != nil {
		return err
	}
	for _, v := range devices {
		if slices.Contains(v.kinds(), kind) && v.inserted() {
			if err := d.eject(ctx, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Driver) eject(ctx context.Context, v virtualMedia) error {
	if v.Actions.Eject.Target == "" {
		return d.patch(ctx, v.Path, map[string]any{"Image": nil, "Inserted": false})
	}
	_, err := d.post(ctx, v.Actions.Eject.Target, map[string]any{})
	return err
}
