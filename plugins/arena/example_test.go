//go:build linux

package arena_test

import (
	"fmt"

	"github.com/srpo-dev/srpo/plugins/arena"
)

// The host grants a slot for one call and names it in the message. After the call, references to it are stale.
func ExampleArena_Grant() {
	host, err := arena.New(1 << 20)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer host.Close()
	slot, err := host.Grant(5)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := slot.Write(0, []byte("frame")); err != nil {
		fmt.Println(err)
		return
	}
	seen, err := host.View(uint64(slot.Offset), uint64(slot.Length),
		slot.Generation) // as the plugin does in its mapping
	fmt.Printf("%s %v\n", seen, err)
	offset, length, generation := uint64(slot.Offset), uint64(slot.Length), slot.Generation
	slot.Release()
	_, err = host.View(offset, length, generation)
	fmt.Println("stale:", err != nil)
	// Output:
	// frame <nil>
	// stale: true
}
