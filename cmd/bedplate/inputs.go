package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// maxInputBytes bounds a file that is given as a value.
const maxInputBytes = 1 << 20

// readInputs reads -i key=value by the template's types. Without declarations
// (declared is nil) values are read as YAML.
func readInputs(given []string, declared map[string]*pb.Input) (map[string]*structpb.Value, error) {
	out := map[string]*structpb.Value{}
	for _, g := range given {
		key, text, ok := strings.Cut(g, "=")
		if !ok || key == "" {
			return nil, usageError{fmt.Errorf("-i %s: key=value is expected", g)}
		}
		text, err := valueOrFile(text)
		if err != nil {
			return nil, err
		}
		kind := ""
		if declared != nil {
			in, known := declared[key]
			if !known {
				return nil, unknownInput(key, declared)
			}
			kind = orElse(in.GetType(), "string")
		}
		if out[key], err = parseInput(kind, text); err != nil {
			return nil, usageError{fmt.Errorf("-i %s: %w", key, err)}
		}
	}
	return out, nil
}

func unknownInput(key string, declared map[string]*pb.Input) error {
	names := slices.Sorted(maps.Keys(declared))
	err := usageError{fmt.Errorf("-i %s: the template has no such input", key)}
	if near := resource.Nearest(key, names); near != "" {
		return hint(err, "did you mean "+near+"?")
	}
	if len(names) == 0 {
		return hint(err, "it has none at all")
	}
	return hint(err, "it has "+strings.Join(names, ", "))
}

// valueOrFile returns a value, or what is in the file that @file names.
func valueOrFile(text string) (string, error) {
	path, isFile := strings.CutPrefix(text, "@")
	if !isFile {
		return text, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading a value: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxInputBytes+1))
	if err != nil {
		return "", fmt.Errorf("reading a value: %w", err)
	}
	if len(data) > maxInputBytes {
		return "", fmt.Errorf("%s is longer than %d KiB", path, maxInputBytes>>10)
	}
	return string(data), nil
}

// parseInput reads a value of a type; the empty type is any YAML.
func parseInput(kind, text string) (*structpb.Value, error) {
	switch kind {
	case "string":
		return structpb.NewStringValue(text), nil
	case "int":
		n, err := strconv.ParseInt(text, 10, 54)
		if err != nil {
			return nil, fmt.Errorf("%q is not a whole number", text)
		}
		return structpb.NewNumberValue(float64(n)), nil
	case "double":
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not a number", text)
		}
		return structpb.NewNumberValue(f), nil
	case "bool":
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("%q is neither true nor false", text)
		}
		return structpb.NewBoolValue(b), nil
	}
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		return nil, fmt.Errorf("not YAML: %w", err)
	}
	out, err := structpb.NewValue(v)
	if err != nil {
		return nil, fmt.Errorf("a value that can't be sent: %w", err)
	}
	if kind == "list" && out.GetListValue() == nil || kind == "map" && out.GetStructValue() == nil {
		return nil, fmt.Errorf("%q is not a %s", text, kind)
	}
	return out, nil
}
