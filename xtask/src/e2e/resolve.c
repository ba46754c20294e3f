/* Finds addresses, or with -x a name, as any program in a pod does. 1: there is none; 2: it cannot be known. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

static int failed(int code)
{
    fprintf(stderr, "%s\n", gai_strerror(code));
#ifdef EAI_NODATA
    if (code == EAI_NODATA)
        return 1;
#endif
    return code == EAI_NONAME ? 1 : 2;
}

static int print_name(const char *text)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    char name[256];
    if (inet_pton(AF_INET, text, &address.sin_addr) != 1)
        return 2;
    int code = getnameinfo((struct sockaddr *)&address, sizeof address, name, sizeof name, NULL, 0, NI_NAMEREQD);
    if (code)
        return failed(code);
    puts(name);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "-x"))
        return print_name(argv[2]);
    if (argc != 2)
        return 2;
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *all;
    int code = getaddrinfo(argv[1], NULL, &hints, &all);
    if (code)
        return failed(code);
    for (struct addrinfo *one = all; one; one = one->ai_next) {
        char name[64];
        if (getnameinfo(one->ai_addr, one->ai_addrlen, name, sizeof name, NULL, 0, NI_NUMERICHOST))
            return 2;
        puts(name);
    }
    freeaddrinfo(all);
    return 0;
}
