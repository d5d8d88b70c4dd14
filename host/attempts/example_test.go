package attempts_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/srpo-dev/srpo/host/attempts"
)

// A list can contain embeddings of any encoder. A problem with an attempt is reported for that attempt.
func ExampleRead() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "attempts.json")
	text := `[{"id": "a", "task": "stack", "success": true, "embedding": [0, 1]},
		{"id": "b", "task": "stack", "success": null, "embedding": [2, 2]},
		{"id": "c", "task": "stack", "success": false, "video": "missing.mp4"}]`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	list, err := attempts.Read(context.Background(), path)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, a := range list.Attempts {
		fmt.Println(a.ID, a.Task, a.Success != nil, a.Embedding, a.Problem != "")
	}
	// Output:
	// a stack true [0 1] false
	// b stack false [2 2] false
	// c stack true [] true
}
