// Command dockerfile runs the checks of `docker build --check` on a Dockerfile, without a daemon.
//
// Parser and rules are BuildKit's. Base images are not looked up: each is taken for an empty one. Prints every warning
// and exits with 1 if there is any. Usage: dockerfile FILE
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	digest "github.com/opencontainers/go-digest"
)

type anyImage struct{}

func (anyImage) ResolveImageConfig(
	_ context.Context, ref string, _ sourceresolver.Opt,
) (string, digest.Digest, []byte, error) {
	config := []byte(`{"architecture":"amd64","os":"linux","config":{}}`)
	return ref, digest.FromString(ref), config, nil
}

func main() {
	name := os.Args[1]
	text, err := os.ReadFile(name)
	if err != nil {
		fail(err)
	}
	source := llb.NewSourceMap(nil, name, "dockerfile", text)
	source.Definition = &llb.Definition{}
	results, err := dockerfile2llb.DockerfileLint(context.Background(), text, dockerfile2llb.ConvertOpt{
		Config:       dockerui.Config{},
		SourceMap:    source,
		MetaResolver: anyImage{},
	})
	if err != nil {
		fail(err)
	}
	if results.Error != nil {
		fail(fmt.Errorf("%s: %s", name, results.Error.Message))
	}
	for _, warning := range results.Warnings {
		line := int32(0)
		if location := warning.Location; location != nil && len(location.Ranges) > 0 {
			line = location.Ranges[0].Start.Line
		}
		fmt.Fprintf(os.Stderr, "%s:%d: %s: %s\n", name, line, warning.RuleName, warning.Detail)
	}
	if len(results.Warnings) > 0 {
		os.Exit(1)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
