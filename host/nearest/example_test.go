package nearest_test

import (
	"fmt"

	"github.com/srpo-dev/srpo/host/nearest"
)

func ExampleTo() {
	fmt.Println(nearest.To("grup_size", []string{"groups", "group_size", "temperature"}))
	// Output: group_size
}
