/* Reads paths with ZooKeeper's C client: get HOST:PORT PATH... prints each one's data, or its error, on a line.
 * A path with a "+" in front of it is read with a watch, which is waited for, and is read again then. */

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zookeeper/zookeeper.h>

static volatile int connected = 0;
static volatile int fired = 0;

static void seen(zhandle_t *handle, int type, int state, const char *path, void *context) {
    (void)handle, (void)path, (void)context;
    if (type == ZOO_SESSION_EVENT)
        connected = state == ZOO_CONNECTED_STATE;
    else if (type == ZOO_CHANGED_EVENT)
        fired = 1;
}

/* Polls for at most 30 s. */
static int wait_for(volatile int *flag) {
    for (int turn = 0; turn < 3000 && !*flag; turn++)
        usleep(10000);
    return *flag;
}

static int get(zhandle_t *handle, const char *path, int watch) {
    char data[65536];
    int length = sizeof data;
    int error = zoo_get(handle, path, watch, data, &length, NULL);
    if (error != ZOK)
        printf("%s\n", zerror(error));
    else
        printf("%.*s\n", length, data);
    fflush(stdout);
    return error;
}

int main(int count, char **words) {
    if (count < 3)
        return 2;
    zoo_set_debug_level(ZOO_LOG_LEVEL_ERROR);
    zhandle_t *handle = zookeeper_init(words[1], seen, 30000, NULL, NULL, 0);
    if (handle == NULL || !wait_for(&connected))
        return 1;
    for (int word = 2; word < count; word++) {
        int watch = words[word][0] == '+';
        const char *path = words[word] + watch;
        get(handle, path, watch);
        if (watch && (!wait_for(&fired) || get(handle, path, 0) != ZOK))
            return 1;
    }
    zookeeper_close(handle);
    return 0;
}
