package store_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/srpo-dev/srpo/host/store"
)

// An iteration counts from its commit. A reader sees all of it or nothing.
func ExampleRun() {
	parent, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "run")
	run, err := store.Create(dir, store.Manifest{}, []byte("[run]\n"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer run.Close()
	pending, err := run.Begin(1)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := pending.WriteFile("host.json", []byte("...")); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("before:", store.Checkpoints(dir))
	if err := pending.Commit(&store.Metrics{Iteration: 1, SuccessRate: 0.5}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("after:", store.Checkpoints(dir))
	// Output:
	// before: []
	// after: [1]
}
