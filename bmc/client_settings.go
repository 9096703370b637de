package bmc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// readBack calls check until it finds what was asked for. what names it, and
// check returns what is there instead.
func (c *Client) readBack(ctx context.Context, what string, check func() (ok bool, found string, err error)) error {
	var found string
	ended, err := c.poll(ctx, c.wait.ReadBack, func() (bool, error) {
		ok, now, err := check()
		found = now
		return ok, err
	})
	switch {
	case err != nil:
		return fmt.Errorf("%s was accepted, but can't be read back: %w", what, err)
	case ended:
		return fmt.Errorf("%s: found %s: %w", what, found, ErrIgnored)
	}
	return nil
}

// SetBoot sets what the machine boots next, or always, and reads it back. The
// error is ErrIgnored where the BMC still has something else. A BMC that can't
// say what it has (Intel AMT) is taken at its word.
func (c *Client) SetBoot(ctx context.Context, o BootOverride) error {
	if o.Device == "" {
		o.Device = BootNone
	}
	if o.URI != "" {
		if err := checkURL(o.URI); err != nil || o.Device != BootHTTP {
			return fmt.Errorf("boot override %s: a URI needs device uefi-http and http or https: %v", o, err)
		}
	}
	if err := c.RequestBoot(ctx, o); err != nil {
		return fmt.Errorf("setting boot override %s: %w", o, err)
	}
	return c.readBack(ctx, "boot override "+o.String(), func() (bool, string, error) {
		found, err := c.BootOverride(ctx)
		if errors.Is(err, ErrUnsupported) {
			return true, "", nil
		}
		return found.satisfies(o), found.String(), err
	})
}

// satisfies reports whether o is what was wanted, as far as want says.
func (o BootOverride) satisfies(want BootOverride) bool {
	if want.Device == BootNone {
		return o.Device == BootNone || o.Device == ""
	}
	return o.Device == want.Device && o.Persistent == want.Persistent &&
		(want.Mode == ModeDefault || o.Mode == ModeDefault || o.Mode == want.Mode) &&
		(want.URI == "" || o.URI == want.URI)
}

// InsertMedia inserts what image, an http or https URL, has, and looks twice
// whether it is and stays inserted.
func (c *Client) InsertMedia(ctx context.Context, kind MediaKind, image string) error {
	if err := checkURL(image); err != nil {
		return fmt.Errorf("inserting virtual media: %w", err)
	}
	if err := c.RequestInsert(ctx, kind, image); err != nil {
		return fmt.Errorf("inserting virtual %s: %w", kind, err)
	}
	seen := 0
	return c.readBack(ctx, fmt.Sprintf("virtual %s %s", kind, image), func() (bool, string, error) {
		media, err := c.Media(ctx)
		if err == nil && slices.ContainsFunc(media, func(m Media) bool { return m.has(kind, image) }) {
			seen++
		} else {
			seen = 0
		}
		return seen == 2, describe(media, kind), err
	})
}

// EjectMedia ejects every medium of the kind, and sees that it is gone.
func (c *Client) EjectMedia(ctx context.Context, kind MediaKind) error {
	if err := c.RequestEject(ctx, kind); err != nil {
		return fmt.Errorf("ejecting virtual %s: %w", kind, err)
	}
	return c.readBack(ctx, fmt.Sprintf("ejecting virtual %s", kind), func() (bool, string, error) {
		media, err := c.Media(ctx)
		gone := !slices.ContainsFunc(media, func(m Media) bool { return m.Inserted && slices.Contains(m.Kinds, kind) })
		return gone, describe(media, kind), err
	})
}

// has reports whether the device has image inserted. Some BMCs keep the URL to
// themselves, or only the name of the file.
func (m Media) has(kind MediaKind, image string) bool {
	if !m.Inserted || !slices.Contains(m.Kinds, kind) {
		return false
	}
	return m.Image == "" || m.Image == image || strings.HasSuffix(image, "/"+m.Image)
}

// describe says what the devices of a kind have.
func describe(media []Media, kind MediaKind) string {
	var parts []string
	for _, m := range media {
		if !slices.Contains(m.Kinds, kind) {
			continue
		}
		what := "nothing"
		if m.Inserted {
			what = "a medium"
			if m.Image != "" {
				what = m.Image
			}
		}
		parts = append(parts, m.Slot+" has "+what)
	}
	if len(parts) == 0 {
		return "no device of that kind"
	}
	return strings.Join(parts, ", ")
}

// checkURL returns why a BMC couldn't load text.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q is no http or https URL", text)
	}
	return nil
}

// SetBIOS sets settings for the next reset, and sees that the BMC has them as
// pending, or current where they were so already.
func (c *Client) SetBIOS(ctx context.Context, settings map[string]string) error {
	if err := c.RequestBIOS(ctx, settings); err != nil {
		return fmt.Errorf("setting BIOS settings: %w", err)
	}
	return c.readBack(ctx, "BIOS settings", func() (bool, string, error) {
		found, err := c.BIOSSettings(ctx)
		if err != nil {
			return false, "", err
		}
		wrong := found.differing(settings)
		return len(wrong) == 0, strings.Join(wrong, ", "), nil
	})
}

// differing returns `name=value` of what is neither pending nor current.
func (b BIOSSettings) differing(want map[string]string) []string {
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		found, pending := b.Pending[name]
		if !pending {
			found = b.Current[name]
		}
		if found != want[name] {
			wrong = append(wrong, name+"="+found)
		}
	}
	return wrong
}

// SetSecureBoot sets Secure Boot for the next reset, and reads the setting back.
func (c *Client) SetSecureBoot(ctx context.Context, enabled bool) error {
	if err := c.RequestSecureBoot(ctx, enabled); err != nil {
		return fmt.Errorf("setting Secure Boot: %w", err)
	}
	return c.readBack(ctx, fmt.Sprintf("Secure Boot enabled=%t", enabled), func() (bool, string, error) {
		found, err := c.SecureBoot(ctx)
		return found.Enabled == enabled, fmt.Sprintf("enabled=%t", found.Enabled), err
	})
}

// CreateUser creates a user and sees it in the list. A user of that name that
// exists is an error.
func (c *Client) CreateUser(ctx context.Context, name, password string, role Role) error {
	if err := c.Driver.CreateUser(ctx, name, password, role); err != nil {
		return fmt.Errorf("creating BMC user %q: %w", name, err)
	}
	return c.readBack(ctx, fmt.Sprintf("BMC user %q with role %s", name, role), func() (bool, string, error) {
		return c.hasUser(ctx, name, role)
	})
}

// DeleteUser deletes a user and sees that it is gone.
func (c *Client) DeleteUser(ctx context.Context, name string) error {
	if err := c.Driver.DeleteUser(ctx, name); err != nil {
		return fmt.Errorf("deleting BMC user %q: %w", name, err)
	}
	return c.readBack(ctx, fmt.Sprintf("deleting BMC user %q", name), func() (bool, string, error) {
		there, found, err := c.hasUser(ctx, name, "")
		return err == nil && !there, found, err
	})
}

// hasUser looks for a user, of the role where one is given.
func (c *Client) hasUser(ctx context.Context, name string, role Role) (bool, string, error) {
	users, err := c.Users(ctx)
	if err != nil {
		return false, "", err
	}
	i := slices.IndexFunc(users, func(u User) bool { return u.Name == name })
	if i < 0 {
		return false, "no such user", nil
	}
	return role == "" || users[i].Role == role, "role " + string(users[i].Role), nil
}
