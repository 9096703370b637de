// Command generate makes the Go code and the OpenAPI description of the
// .proto files in proto/. It needs neither protoc nor the imported .proto
// files: protocompile reads ours, and the imports come from the Go packages
// that are linked in here.
//
//	go run ./proto/generate
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	_ "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/bufbuild/protocompile"
	_ "google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	_ "google.golang.org/protobuf/types/known/durationpb"
	_ "google.golang.org/protobuf/types/known/emptypb"
	_ "google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	if err := run(context.Background(), "proto"); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root string) error {
	names, err := protoFiles(root)
	if err != nil {
		return err
	}
	req, err := compile(ctx, root, names)
	if err != nil {
		return err
	}
	plugins := []struct{ name, parameter string }{
		{"protoc-gen-go", "paths=source_relative"},
		{"protoc-gen-go-grpc", "paths=source_relative"},
		{"protoc-gen-grpc-gateway", "paths=source_relative"},
		{"protoc-gen-openapiv2", "allow_merge=true,merge_file_name=bedplate,json_names_for_fields=false,openapi_naming_strategy=simple"},
	}
	for _, p := range plugins {
		req.Parameter = proto.String(p.parameter)
		if err := invoke(ctx, root, p.name, req); err != nil {
			return fmt.Errorf("running %s: %w", p.name, err)
		}
	}
	return nil
}

// protoFiles returns the .proto files under root, as they import each other.
func protoFiles(root string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".proto") {
			return err
		}
		name, err := filepath.Rel(root, path)
		names = append(names, filepath.ToSlash(name))
		return err
	})
	sort.Strings(names)
	return names, err
}

// compile parses and links the files, and returns the request that plugins want.
func compile(ctx context.Context, root string, names []string) (*pluginpb.CodeGeneratorRequest, error) {
	linked := protocompile.ResolverFunc(func(path string) (protocompile.SearchResult, error) {
		d, err := protoregistry.GlobalFiles.FindFileByPath(path)
		if err != nil {
			return protocompile.SearchResult{}, err
		}
		return protocompile.SearchResult{Proto: protodesc.ToFileDescriptorProto(d)}, nil
	})
	c := protocompile.Compiler{
		Resolver:       protocompile.CompositeResolver{&protocompile.SourceResolver{ImportPaths: []string{root}}, linked},
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := c.Compile(ctx, names...)
	if err != nil {
		return nil, err
	}
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: names}
	seen := map[string]bool{}
	for _, f := range files {
		addFile(req, seen, f)
	}
	return req, nil
}

// addFile adds f after everything it imports, as the plugin protocol wants.
func addFile(req *pluginpb.CodeGeneratorRequest, seen map[string]bool, f protoreflect.FileDescriptor) {
	if seen[f.Path()] {
		return
	}
	seen[f.Path()] = true
	for i := range f.Imports().Len() {
		addFile(req, seen, f.Imports().Get(i).FileDescriptor)
	}
	req.ProtoFile = append(req.ProtoFile, fileProto(f))
}

// describe gives the description of the API its title, and takes out the
// service that another port serves.
func describe(content string) string {
	content = strings.Replace(content, `"title": "bedplate/v1/access.proto"`, `"title": "Bedplate"`, 1)
	content = strings.Replace(content, `"version": "version not set"`, `"version": "v1"`, 1)
	return strings.Replace(content, "    {\n      \"name\": \"AgentService\"\n    },\n", "", 1)
}

func fileProto(f protoreflect.FileDescriptor) *descriptorpb.FileDescriptorProto {
	p := protodesc.ToFileDescriptorProto(f)
	if r, ok := f.(interface {
		FileDescriptorProto() *descriptorpb.FileDescriptorProto
	}); ok {
		p = r.FileDescriptorProto()
	}
	if p.SourceCodeInfo == nil { // linked-in files have none, and the plugins complain of that
		p.SourceCodeInfo = &descriptorpb.SourceCodeInfo{}
	}
	return p
}

func invoke(ctx context.Context, root, plugin string, req *pluginpb.CodeGeneratorRequest) error {
	in, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "tool", plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var resp pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &resp); err != nil {
		return err
	}
	if resp.Error != nil {
		return fmt.Errorf("%s", resp.GetError())
	}
	for _, f := range resp.File {
		content := f.GetContent()
		if strings.HasSuffix(f.GetName(), ".swagger.json") {
			content = describe(content)
		}
		if err := os.WriteFile(filepath.Join(root, filepath.FromSlash(f.GetName())), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
