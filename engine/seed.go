package engine

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/event"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

//go:embed templates/*.yaml
var builtin embed.FS

// annotationBuiltin holds the digest of a built-in template's spec as it was
// stored: a template that still has it is brought up to date, one that a
// person has changed is left alone.
const annotationBuiltin = "bedplate/builtin"

// seed puts into a new store what every server starts with.
func (e *Engine) seed(ctx context.Context) error {
	templates, err := builtinTemplates()
	if err != nil {
		return err
	}
	for _, t := range templates {
		if err := e.seedTemplate(ctx, t); err != nil {
			return fmt.Errorf("storing template %s: %w", t.Metadata.Name, err)
		}
	}
	if !e.cfg.FirstNetwork {
		return nil
	}
	return e.seedNetwork(ctx)
}

// builtinTemplates returns the templates that are built in.
func builtinTemplates() ([]*pb.Template, error) {
	names, err := fs.Glob(builtin, "templates/*.yaml")
	if err != nil {
		return nil, err
	}
	var out []*pb.Template
	for _, name := range names {
		f, err := builtin.Open(name)
		if err != nil {
			return nil, err
		}
		items, err := resource.Decode(name, f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("reading built-in templates: %w", err)
		}
		for _, item := range items {
			t, ok := item.Object.(*pb.Template)
			if !ok {
				return nil, fmt.Errorf("reading built-in templates: %s holds a %T", name, item.Object)
			}
			out = append(out, t)
		}
	}
	return out, nil
}

func (e *Engine) seedTemplate(ctx context.Context, t *pb.Template) error {
	sum, err := specDigest(t.Spec)
	if err != nil {
		return err
	}
	t.Metadata.Annotations = map[string]string{annotationBuiltin: sum}
	_, err = resource.Create(ctx, e.db, t)
	if !errors.Is(err, resource.ErrExists) {
		return err
	}
	_, err = resource.Update(ctx, e.db, t.Metadata.Name, func(old *pb.Template) error {
		was, err := specDigest(old.Spec)
		if err != nil {
			return err
		}
		if mark := old.GetMetadata().GetAnnotations()[annotationBuiltin]; mark != was || was == sum {
			return resource.ErrUnchanged
		}
		old.Spec, old.Metadata.Annotations[annotationBuiltin] = t.Spec, sum
		return nil
	})
	return err
}

func specDigest(spec *pb.TemplateSpec) (string, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8]), nil
}

// seedNetwork describes the network of the first interface if no network is known at all.
func (e *Engine) seedNetwork(ctx context.Context) error {
	known, _, err := resource.All[*pb.Network](ctx, e.db)
	if err != nil || len(known) > 0 {
		return err
	}
	for _, iface := range e.cfg.Interfaces {
		n, err := firstNetwork(ctx, iface, probeDHCP)
		if err != nil {
			return err
		}
		resource.Stamp(e.db, n)
		_, err = e.store.Txn(ctx, []store.Compare{resource.Absent[*pb.Network](n.Metadata.Name)}, []store.Op{
			resource.Put(n), e.events.Op(event.About(n, "Created", n.Metadata.Annotations["bedplate/reason"], "")),
		})
		if err != nil {
			return fmt.Errorf("storing the first network: %w", err)
		}
		e.log.Info("made a network", "iface", iface, "addr", n.Spec.Cidr, "action", resource.EnumName(n.Spec.DhcpMode)+": "+n.Metadata.Annotations["bedplate/reason"])
	}
	return nil
}
