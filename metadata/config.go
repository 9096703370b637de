package metadata

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/ignition"
	"github.com/bedplate/bedplate/machine"
)

// Document is what one machine may know of itself.
type Document struct {
	// Machine is for sightings; it is told to nobody.
	Machine machine.Name
	// InstanceID changes when the machine is installed anew: cloud-init runs its
	// once-per-instance work for each. It must not be empty.
	InstanceID string
	// Hostname is without domain; Domain may be empty.
	Hostname, Domain string
	// SSHKeys are OpenSSH public keys for the image's default user.
	SSHKeys []string
	// UserData is given as it is. NetworkConfig is cloud-init's, version 1 or 2;
	// empty: DHCP.
	UserData, NetworkConfig []byte
	// NetworkFiles say the same to a system that is configured by Ignition.
	NetworkFiles []ignition.File
	// NetworkErr says why there is no NetworkConfig that there should be: asking
	// for it is answered with an error then, so that no machine comes up without.
	NetworkErr error
	// Ignition is what the user wrote for Ignition, Butane or JSON; KernelArguments
	// are the system's, User is who gets SSHKeys (empty: the image's own default).
	Ignition        string
	KernelArguments []string
	User            string
	// Talos is a machine configuration of Talos Linux, with the user's patches
	// and, before those, the machine's network.
	Talos                      string
	TalosPatches, TalosNetwork []string
	// VendorData goes beside our own. Its first line must say what it is, such
	// as #cloud-config.
	VendorData []byte
	// PublicIPv4 and LocalIPv4 are told when they are valid.
	PublicIPv4, LocalIPv4 netip.Addr
	MACs                  []machine.MAC
	Labels                map[string]string
}

// fqdn returns the host name with its domain, if it has one.
func (d Document) fqdn() string {
	if d.Domain == "" || d.Hostname == "" {
		return d.Hostname
	}
	return d.Hostname + "." + d.Domain
}

// Source finds documents in memory.
type Source interface {
	// ByAddress returns the document of the machine that holds an address.
	ByAddress(netip.Addr) (Document, bool)
	// ByKey returns the document that a key opens. It must compare in constant
	// time, or look up a digest of the key.
	ByKey(key string) (Document, bool)
}

// PhoneHome is called when a machine's first boot is done, with its address and what cloud-init
// told: instance_id, hostname, fqdn, pub_key_ed25519 and the like, as sent by the
// machine. When it returns nil the machine is told that it was heard, so that has
// to be durable; after an error it tries again. It is called again whenever the
// machine repeats itself.
type PhoneHome func(ctx context.Context, key string, peer netip.Addr, fields map[string]string) error

// Observer is told what was seen of machines. Observe must not block.
type Observer interface {
	Observe(machine.Sighting)
}

// Config is what a Server is made from. Source, PhoneHome and Now are required.
type Config struct {
	Source    Source
	PhoneHome PhoneHome
	// HTTPBase returns the base of URLs for a machine at peer, without a slash
	// at the end. Nil, or "" returned: the address that the request came in on.
	HTTPBase func(peer netip.Addr) string

	// Observer, Logger and Registerer may be nil.
	Observer   Observer
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// Validate says what is missing.
func (c Config) Validate() error {
	switch {
	case c.Source == nil:
		return errors.New("metadata: Config.Source is missing")
	case c.PhoneHome == nil:
		return errors.New("metadata: Config.PhoneHome is missing")
	case c.Now == nil:
		return errors.New("metadata: Config.Now is missing")
	}
	return nil
}
