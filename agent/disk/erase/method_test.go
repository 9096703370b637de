package erase

import "testing"

func TestSanitizeLevel(t *testing.T) {
	for _, c := range []struct {
		name       string
		rotational bool
		want       string
	}{
		{"ata-sanitize-overwrite", true, Purge},
		{"ata-sanitize-overwrite", false, Clear},
		{"scsi-sanitize-overwrite", false, Clear},
		{"ata-sanitize-block", false, Purge},
		{"scsi-sanitize-crypto", false, Purge},
	} {
		if got := sanitizeLevel(c.name, c.rotational); got != c.want {
			t.Errorf("%s, rotational %v: %s, want %s", c.name, c.rotational, got, c.want)
		}
	}
}
