// Finds addresses, or with -x a name, as any Go program in a pod does. 1: there is none; 2: it cannot be known.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

func main() {
	resolver := net.Resolver{PreferGo: true}
	find := resolver.LookupHost
	name := os.Args[1]
	if name == "-x" {
		find, name = resolver.LookupAddr, os.Args[2]
	}
	found, err := find(context.Background(), name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			os.Exit(1)
		}
		os.Exit(2)
	}
	for _, one := range found {
		fmt.Println(strings.TrimSuffix(one, "."))
	}
}
