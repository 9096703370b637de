package expression

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// Selector is a bare expression that says yes or no to a machine or disk. It
// may be used by any number of goroutines.
type Selector struct {
	code    *compiled
	root    string
	objects schema
	of      string
}

var (
	selectorScope = sync.OnceValues(func() (scope, error) { return bareScope(selectorEnv, "machine", typeMachine) })
	hintScope     = sync.OnceValues(func() (scope, error) { return bareScope(hintEnv, "disk", typeDisk) })
)

func bareScope(env func() (*cel.Env, error), name, object string) (scope, error) {
	e, err := env()
	return scope{env: e, objects: base(), roots: map[string]*cel.Type{name: cel.ObjectType(object)}}, err
}

// CompileSelector reads an Instance's selector: an expression over machine.
func CompileSelector(text string) (*Selector, error) {
	return compileBare(text, selectorScope, "machine", typeMachine)
}

// CompileDiskHint reads a disk hint: an expression over disk.
func CompileDiskHint(text string) (*Selector, error) {
	return compileBare(text, hintScope, "disk", typeDisk)
}

func compileBare(text string, in func() (scope, error), root, of string) (*Selector, error) {
	if len(text) > MaxExpressionBytes {
		return nil, fmt.Errorf("this expression is longer than %d bytes", MaxExpressionBytes)
	}
	s, err := in()
	if err != nil {
		return nil, err
	}
	code, errs := s.compile(text)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if k := code.typ.Kind(); k != types.BoolKind && k != types.DynKind {
		return nil, fmt.Errorf("the expression is %s, bool is wanted", typeName(code.typ))
	}
	return &Selector{code: code, root: root, objects: s.objects, of: of}, nil
}

// CheckSelector returns what is wrong with an Instance's selector.
func CheckSelector(text string) error {
	_, err := CompileSelector(text)
	return err
}

// CheckDiskHint returns what is wrong with a disk hint.
func CheckDiskHint(text string) error {
	_, err := CompileDiskHint(text)
	return err
}

// Machine reports whether the selector says yes to m.
func (s *Selector) Machine(ctx context.Context, m *pb.Machine) (bool, error) {
	return s.eval(ctx, machineMap(m))
}

// Disk reports whether the hint says yes to d.
func (s *Selector) Disk(ctx context.Context, d *pb.Disk) (bool, error) {
	m := protoMessage(d.ProtoReflect())
	m["size"] = float64(d.GetSizeBytes())
	return s.eval(ctx, m)
}

func (s *Selector) eval(ctx context.Context, value map[string]any) (bool, error) {
	v, err := s.code.eval(ctx, map[string]any{s.root: s.objects.typed(s.of, value)})
	if err != nil {
		return false, err
	}
	yes, ok := v.(types.Bool)
	if !ok {
		return false, fmt.Errorf("the expression is %s, bool is wanted", v.Type().TypeName())
	}
	return bool(yes), nil
}

// EvalSelector reports whether the selector text says yes to m.
func EvalSelector(ctx context.Context, text string, m *pb.Machine) (bool, error) {
	s, err := CompileSelector(text)
	if err != nil {
		return false, err
	}
	return s.Machine(ctx, m)
}

// EvalDiskHint reports whether the hint text says yes to d.
func EvalDiskHint(ctx context.Context, text string, d *pb.Disk) (bool, error) {
	s, err := CompileDiskHint(text)
	if err != nil {
		return false, err
	}
	return s.Disk(ctx, d)
}

func machineMap(m *pb.Machine) map[string]any {
	out := metadataMap(m.GetMetadata())
	out["state"] = enumWord(m.GetStatus().GetState())
	out["spec"] = protoMessage(m.GetSpec().ProtoReflect())
	out["inventory"] = protoMessage(m.GetStatus().GetInventory().ProtoReflect())
	addresses := []any{}
	for _, a := range m.GetStatus().GetAddresses() {
		addresses = append(addresses, a)
	}
	out["addresses"] = addresses
	out["bmc"] = bmcMap(m)
	return out
}

// What was heard of a BMC before anybody logged in to it; package fleet has the
// same words.
const (
	annotationBMCMAC     = "bedplate/bmc-mac"
	annotationBMCVendor  = "bedplate/bmc-vendor"
	annotationBMCProduct = "bedplate/bmc-product"
)

// bmcMap is what is known of a machine's BMC: by the spec or by how it was
// found, else by the machine's inventory.
func bmcMap(m *pb.Machine) map[string]any {
	said, inventory := m.GetMetadata().GetAnnotations(), m.GetStatus().GetInventory().GetBmc()
	return map[string]any{
		"address": cmp.Or(m.GetSpec().GetBmc().GetAddress(), inventory.GetAddress()),
		"mac":     cmp.Or(said[annotationBMCMAC], inventory.GetMac()),
		"vendor":  cmp.Or(said[annotationBMCVendor], m.GetStatus().GetBmc().GetVendor()),
		"product": cmp.Or(m.GetStatus().GetBmc().GetModel(), said[annotationBMCProduct]),
	}
}

func metadataMap(md *pb.Metadata) map[string]any {
	labels, annotations := map[string]any{}, map[string]any{}
	for k, v := range md.GetLabels() {
		labels[k] = v
	}
	for k, v := range md.GetAnnotations() {
		annotations[k] = v
	}
	return map[string]any{"name": md.GetName(), "uid": md.GetUid(), "labels": labels, "annotations": annotations}
}

// MachineFacts is a machine as a Plan carries it.
func MachineFacts(m *pb.Machine) (*structpb.Struct, error) {
	s, err := structpb.NewStruct(machineMap(m))
	if err != nil {
		return nil, fmt.Errorf("describing the machine: %w", err)
	}
	return s, nil
}

// InstanceFacts is an instance as a Plan carries it.
func InstanceFacts(i *pb.Instance) (*structpb.Struct, error) {
	m := metadataMap(i.GetMetadata())
	m["spec"] = protoMessage(i.GetSpec().ProtoReflect())
	s, err := structpb.NewStruct(m)
	if err != nil {
		return nil, fmt.Errorf("describing the instance: %w", err)
	}
	return s, nil
}
