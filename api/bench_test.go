package api

import (
	"fmt"
	"testing"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func BenchmarkGetMachine(b *testing.B) {
	r := newRig(b)
	r.createMachine(testMachine("web-1", "52:54:00:77:00:01", ""))
	ctx := r.as(r.admin)
	for b.Loop() {
		if _, err := r.machines().GetMachine(ctx, &pb.GetMachineRequest{Name: "web-1"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreateMachine(b *testing.B) {
	r := newRig(b)
	ctx := r.as(r.admin)
	i := 0
	for b.Loop() {
		i++
		mac := fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", byte(i>>24), byte(i>>16), byte(i>>8), byte(i))
		if _, err := r.machines().CreateMachine(ctx, &pb.CreateMachineRequest{Machine: testMachine(fmt.Sprintf("m-%d", i), mac, "")}); err != nil {
			b.Fatal(err)
		}
	}
}
